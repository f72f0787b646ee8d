# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `bench accuracy` found, against what was to be reached, and laid out as tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuron_chunk_ros.bench import goals, paper
from neuron_chunk_ros.bench.accuracy import figures as accuracy_figures
from neuron_chunk_ros.bench.accuracy import records as accuracy_records
from neuron_chunk_ros.bench.accuracy.curves import Curves, Scores
from neuron_chunk_ros.bench.accuracy.measure import AccuracyOptions, Evaluation, TimedReading
from neuron_chunk_ros.bench.accuracy.variants import (
    ABLATION,
    BASELINE,
    CONTESTANTS,
    DENSE_OURS,
    FULL,
    OURS,
    TOPK,
    Contestant,
    Variant,
)
from neuron_chunk_ros.bench.read import figures as read_figures
from neuron_chunk_ros.bench.report import Column, Record, Report, Table
from neuron_chunk_ros.bench.statistics import interval, running_correction
from neuron_chunk_ros.tabletop.exam import Exam

_TIMES = '{:.2f}x'
_SHOWN = (DENSE_OURS, BASELINE, Contestant(TOPK, 'paper'),
          Contestant(Variant('greedy', hot_cold=True), 'paper'),
          Contestant(Variant('optimal', hot_cold=True), 'ours'), OURS)


def report(options: AccuracyOptions, evaluation: Evaluation, exam: Exam,
           timed: Sequence[TimedReading], facts: Record) -> Report:
    """Compare everything with everything that was asked for."""
    scores = Scores(evaluation, exam, options.seed)
    curves = Curves(options, timed, scores)
    simulated, simulated_speedups = accuracy_records.simulate(options, evaluation, scores)
    records = {
        'points': accuracy_records.points(options, evaluation, curves),
        'speedups': accuracy_records.speedups(options, curves, CONTESTANTS),
        'ablation': [r for r in accuracy_records.speedups(options, curves, ABLATION)
                     if r['decoder'] == 'all'],
        'contiguity': accuracy_records.contiguity(options, evaluation),
        'estimates': accuracy_records.estimates(options, timed),
        'simulated': simulated, 'simulated_speedups': simulated_speedups,
    }
    summary = _goals(options, curves, records)
    made = Report('accuracy', facts, records, summary, _tables(records, summary))
    made.add_figure('curves', lambda: accuracy_figures.curves(records['points']),
                    "Accuracy against the time a frame's reads take, sparsity from 0 to 70 %.")
    made.add_figure('speedup', lambda: accuracy_figures.speedup(records['points']),
                    "Times faster than top-k through the paper's reader at equal accuracy.")
    made.add_figure('ablation', lambda: accuracy_figures.ablation(records['ablation']),
                    'What each part is worth: mean and best over sparsities and decoders.')
    made.add_figure('contiguity', lambda: accuracy_figures.contiguity(records['contiguity']),
                    'How long the runs are that are read at 50 %.')
    parts = [accuracy_records.single_steps([t for t in timed if t.decoder == decoder])
             for decoder in options.decoders]
    made.add_figure('estimates', lambda: read_figures.estimates(
        *(np.concatenate(column) for column in zip(
            *((estimated, running_correction(estimated, measured), measured)
              for estimated, measured in parts), strict=True))),
        'Left: every single frame; right: how many of them were estimated how well.')
    made.add_figure('simulated', lambda: read_figures.simulated(
        [r for r in simulated_speedups if r['layout'] == 'bundled'], 'at equal accuracy'),
        "Simulated, not measured: the same under the paper's devices' latency tables.")
    return made


def _goals(options: AccuracyOptions, curves: Curves, records: dict) -> list[Record]:
    mean, best, _ = curves.summary(options.decoders, OURS)
    found = [goals.goal('ours against the baseline at equal accuracy: mean', mean, at_least=4,
                        unit='x'),
             goals.goal('ours against the baseline at equal accuracy: best', best, at_least=8,
                        unit='x')]
    half = min(range(len(options.sparsities)), key=lambda i: abs(options.sparsities[i] - 0.5))
    against = [curves.against_dense(decoder, OURS)[half] for decoder in options.decoders]
    every = records['estimates'][0]
    found += [
        goals.goal(f'ours at {options.sparsities[half]:.0%} against reading everything: least',
                   min(against, key=lambda ratio: ratio.value), at_least=1, unit='x'),
        goals.goal('estimated against measured: R^2', every['r_squared'], at_least=0.95),
        goals.goal('median error of an estimate, as the profile has it [%]',
                   100 * every['median_error']),
        goals.goal('median error of an estimate, corrected [%]', 100 * every['corrected_error'],
                   at_most=10)]
    for record in records['simulated_speedups']:
        if record['label'] == FULL.label:
            label = f"simulated {paper.LABELS[record['device']]}, ours at equal accuracy"
            for name in ('mean', 'best'):
                found.append(goals.goal(
                    f'{label}: {name}', interval(record[name], np.array(
                        [record[f'{name}_low'], record[f'{name}_high']])),
                    at_least=record[f'paper_{name}'], unit='x'))
    return found


def _tables(records: dict, summary: list[Record]) -> list[Table]:
    mean = (Column('mean', 'mean', _TIMES), Column('95 % from', 'mean_low', _TIMES),
            Column('to', 'mean_high', _TIMES), Column('best', 'best', _TIMES),
            Column('best at', 'best_at'))
    shown = [contestant.label for contestant in _SHOWN]
    return [
        Table("Accuracy, and median ms of a frame's reads",
              (Column('rows of', 'decoder'), Column('sparsity', 'sparsity', '{:.0%}'),
               *(Column(label, label) for label in shown)),
              _matrix(records['points'], '{accuracy:.3f} / {median_ms:.1f}')),
        Table("Times faster than the baseline (top-k, separate matrices, the paper's reader) "
              'at the accuracy that it has at this sparsity, with 95 % intervals',
              (Column('rows of', 'decoder'), Column('sparsity', 'sparsity', '{:.0%}'),
               *(Column(label, label) for label in shown)),
              _matrix(records['points'], '{speedup:.2f} ({speedup_low:.2f}-{speedup_high:.2f})')),
        Table('Speed-up at equal accuracy, over sparsities and decoders; one change at a time',
              (Column('contestant', 'contestant'), *mean), records['ablation']),
        Table('Speed-up at equal accuracy by decoder',
              (Column('rows of', 'decoder'), Column('contestant', 'contestant'), *mean),
              [r for r in records['speedups'] if r['decoder'] != 'all'
               and r['contestant'] in (OURS.label, DENSE_OURS.label)]),
        Table('Runs that are read near 50 %',
              (Column('rows of', 'decoder'), Column('policy', 'policy'), Column('order', 'order'),
               Column('budgets', 'budgets'), Column('mean rows in a run', 'mean_run', '{:.1f}')),
              [r for r in records['contiguity'] if r['shortest'] == 1]),
        Table('Estimated against measured, every single frame of our reader',
              (Column('rows of', 'decoder'), Column('frames', 'steps'),
               Column('R^2', 'r_squared', '{:.3f}'),
               Column('measured / estimated', 'factor', '{:.2f}'),
               Column('median error', 'median_error', '{:.1%}'),
               Column('corrected', 'corrected_error', '{:.1%}')), records['estimates']),
        Table('Simulated Jetsons (latency tables made of published figures, nothing measured): '
              "speed-up against top-k at equal accuracy, beside the paper's own",
              (Column('device', 'device'), Column('variant', 'label'), *mean,
               Column("paper's mean", 'paper_mean', _TIMES),
               Column("paper's best", 'paper_best', _TIMES)), records['simulated_speedups']),
        goals.table(summary)]


def _matrix(points: list[Record], form: str) -> list[Record]:
    """One row for each decoder and sparsity, a column for each contestant shown."""
    described = {c.label: accuracy_records.describe(c) for c in _SHOWN}
    rows: dict[tuple, Record] = {}
    for point in points:
        label = next((label for label, fields in described.items()
                      if fields.items() <= point.items()), None)
        if label:
            key = (point['decoder'], point['sparsity'])
            rows.setdefault(key, {'decoder': key[0], 'sparsity': key[1]})[label] = (
                form.format(**point))
    return list(rows.values())
