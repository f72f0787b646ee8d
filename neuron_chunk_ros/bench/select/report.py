# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `bench select` found, as records and tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuron_chunk_ros.bench import goals
from neuron_chunk_ros.bench.report import Column, Record, Report, Table
from neuron_chunk_ros.bench.select import figures as select_figures
from neuron_chunk_ros.bench.select.measure import WAYS, Selected, SelectOptions
from neuron_chunk_ros.bench.shapes import DECODERS
from neuron_chunk_ros.bench.statistics import interval, median_interval, median_replicas, resampled

_MS = '{:.3f}'
_SHARE = '{:.1%}'
_LARGE = (18944, 3584)
_LARGE_GOALS = {'greedy': 2.0, 'optimal': 0.5}  # ms


def report(options: SelectOptions, found: Sequence[Selected], facts: Record) -> Report:
    """Hold each selection's time against the reading that it plans."""
    draws = resampled(options.calls, np.random.default_rng(options.seed))
    records = {'matrices': [_matrix(one, draws) for one in found],
               'layers': _layers(options, found, draws)}
    summary = _goals(found, records['layers'], draws)
    way = (Column('policy', 'policy'), Column('budget of', 'budget'))
    times = (Column('median ms', 'median_ms', _MS), Column('95 % from', 'low_ms', _MS),
             Column('to', 'high_ms', _MS), Column('reads for ms', 'read_ms', '{:.2f}'),
             Column('share', 'share', _SHARE))
    tables = [
        Table('Selecting half of the rows of one matrix, one core',
              (Column('decoder', 'decoder'), Column('matrix', 'matrix'), Column('rows', 'rows'),
               Column('columns', 'columns'), *way, *times), records['matrices']),
        Table('The four selections of a layer (bundled storage) beside the reads they plan',
              (Column('decoder', 'decoder'), *way, *times), records['layers']),
        goals.table(summary)]
    made = Report('select', facts, records, summary, tables)
    made.add_figure('shares', lambda: select_figures.shares(records['layers']),
                    'Selecting as a share of the reading that it plans.')
    return made


def _matrix(one: Selected, draws: np.ndarray) -> Record:
    median = median_interval(one.seconds, draws)
    return {'decoder': one.decoder, 'layout': one.layout, 'matrix': one.matrix.name,
            'rows': one.matrix.rows, 'columns': one.matrix.columns, 'policy': one.policy,
            'budget': one.budget, 'median_ms': 1e3 * median.value, 'low_ms': 1e3 * median.low,
            'high_ms': 1e3 * median.high, 'read_ms': 1e3 * one.planned,
            'share': median.value / one.planned}


def _layers(options: SelectOptions, found: Sequence[Selected], draws: np.ndarray) -> list[Record]:
    records = []
    for decoder in options.decoders:
        for policy, budget in WAYS:
            mine = [one for one in found if (one.decoder, one.layout, one.policy, one.budget)
                    == (decoder, 'bundled', policy, budget)]
            planned = sum(one.planned for one in mine)
            total = interval(sum(float(np.median(one.seconds)) for one in mine),
                             sum(median_replicas(one.seconds, draws) for one in mine))
            records.append({
                'decoder': decoder, 'policy': policy, 'budget': budget,
                'median_ms': 1e3 * total.value, 'low_ms': 1e3 * total.low,
                'high_ms': 1e3 * total.high, 'read_ms': 1e3 * planned,
                'share': total.value / planned, 'share_low': total.low / planned,
                'share_high': total.high / planned})
    return records


def _goals(found: Sequence[Selected], layers: list[Record], draws: np.ndarray) -> list[Record]:
    records = []
    for policy, limit in _LARGE_GOALS.items():
        times = [one.seconds for one in found if (one.policy, one.budget) == (policy, 'rows')
                 and (one.matrix.rows, one.matrix.columns) == _LARGE]
        if times:
            median = median_interval(1e3 * times[0], draws)
            records.append(goals.goal(f'{policy} for {_LARGE}', median, at_most=limit, unit=' ms'))
    for layer in layers:
        if layer['policy'] == 'optimal':
            records.append(goals.goal(
                f"optimal, {DECODERS[layer['decoder']].label}, budget of {layer['budget']}: "
                'share of the reading',
                interval(100 * layer['share'],
                         100 * np.array([layer['share_low'], layer['share_high']])),
                at_most=5, unit=' %'))
    return records
