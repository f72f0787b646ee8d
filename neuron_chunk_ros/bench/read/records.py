# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `bench read` found, as plain records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuron_chunk_ros.bench import paper
from neuron_chunk_ros.bench.contestants import CONTENDERS, DENSE
from neuron_chunk_ros.bench.importance import HOT_COLD
from neuron_chunk_ros.bench.read.comparison import (
    ALIKE,
    BASES,
    PAPERS,
    Comparison,
    baseline_of,
    pairs,
)
from neuron_chunk_ros.bench.read.measure import Measured, TimedReads
from neuron_chunk_ros.bench.read.steps import ReadStep
from neuron_chunk_ros.bench.report import Record
from neuron_chunk_ros.bench.shapes import DECODERS
from neuron_chunk_ros.bench.statistics import Interval, foretelling, interval


def step(comparison: Comparison, key: tuple, one: TimedReads) -> Record:
    """Return a timed step's record."""
    step, median = one.step, comparison.median(key)
    record = {
        'decoder': step.decoder, 'layout': step.layout, 'source': step.source,
        'sparsity': step.sparsity, 'policy': step.contender.policy,
        'reader': step.contender.reader, 'importance_kept': step.kept, 'rows_read': step.rows,
        'runs': step.run_count, 'estimated_ms': 1e3 * step.estimated,
        'median_ms': 1e3 * median.value, 'low_ms': 1e3 * median.low, 'high_ms': 1e3 * median.high}
    dense = (*key[:4], DENSE)
    for name, above in (('speedup', baseline_of(key, ALIKE)),
                        ('against_paper', baseline_of(key, PAPERS)), ('against_dense', dense)):
        known = comparison.has(above)
        found = interval(*comparison.ratio(above, key)) if known else Interval(*[np.nan] * 3)
        record |= {name: found.value, f'{name}_low': found.low, f'{name}_high': found.high}
    return record


def speedups(comparison: Comparison, decoders: Sequence[str]) -> list[Record]:
    """Return mean and best of each contender over sources and sparsities, all and by decoder."""
    records = []
    for base in BASES:
        for contender in CONTENDERS:
            for decoder in ('', *decoders):
                compared = pairs(comparison, base, contender, decoder)
                if not compared:
                    continue
                mean, best, (_, at) = comparison.mean(compared)
                records.append({
                    'against': base, 'decoder': decoder or 'all', 'policy': contender.policy,
                    'reader': contender.reader, 'steps': len(compared), 'mean': mean.value,
                    'mean_low': mean.low, 'mean_high': mean.high, 'best': best.value,
                    'best_low': best.low, 'best_high': best.high,
                    'best_at': f'{DECODERS[at[0]].label}, {at[2]}, {at[3]:.0%}'})
    return records


def layouts(comparison: Comparison) -> list[Record]:
    """Return bundled against separate storage, step by step."""
    records = []
    for key, _ in comparison.all():
        if key[1] != 'separate':
            continue
        bundled = (key[0], 'bundled', *key[2:])
        found = interval(*comparison.ratio(key, bundled))
        records.append({
            'decoder': key[0], 'source': key[2], 'sparsity': key[3], 'policy': key[4].policy,
            'reader': key[4].reader, 'separate_ms': 1e3 * comparison.median(key).value,
            'bundled_ms': 1e3 * comparison.median(bundled).value, 'gain': found.value,
            'gain_low': found.low, 'gain_high': found.high})
    return records


def pages(measured: Measured) -> list[Record]:
    """Return what the pages of the paper's reader's buffer are worth."""
    records = []
    for decoder, steps in measured.pages.items():
        for one in steps:
            reader = one.step.contender.reader
            seconds = float(np.median(one.seconds))
            records.append({
                'decoder': decoder, 'policy': one.step.contender.policy, 'reader': reader,
                'sparsity': one.step.sparsity, 'pages_in_a_row':
                measured.pages_in_a_row[decoder][reader], 'median_ms': 1e3 * seconds,
                'mb_per_second': one.step.rows * DECODERS[decoder].layer_bytes / seconds / 1e6})
    return records


def simulated_steps(simulated: dict[str, list[ReadStep]]) -> list[Record]:
    """Return the simulated steps' records, by device."""
    records = []
    for device, steps in simulated.items():
        seconds = {(s.decoder, s.layout, s.source, s.sparsity, s.contender.policy): s.estimated
                   for s in steps}
        for step in steps:
            key = (step.decoder, step.layout, step.source, step.sparsity)
            papers = (step.decoder, 'separate', step.source.replace(HOT_COLD, ''),
                      step.sparsity, 'topk')
            records.append({
                'device': device, 'decoder': step.decoder, 'layout': step.layout,
                'source': step.source, 'sparsity': step.sparsity,
                'policy': step.contender.policy, 'rows_read': step.rows,
                'runs': step.run_count, 'simulated_ms': 1e3 * step.estimated,
                'speedup': seconds[(*key, 'topk')] / step.estimated,
                'against_paper': seconds.get(papers, float('nan')) / step.estimated,
                'against_dense': seconds[(*key, 'dense')] / step.estimated})
    return records


def simulated_speedups(records: list[Record]) -> list[Record]:
    """Return mean and best over simulated steps, beside the paper's."""
    found = []
    ordered = {r['source'].replace(HOT_COLD, '') for r in records if HOT_COLD in r['source']}
    for device in dict.fromkeys(record['device'] for record in records):
        for base, layout, column in ((ALIKE, 'bundled', 'speedup'),
                                     (ALIKE, 'separate', 'speedup'),
                                     (PAPERS, 'bundled', 'against_paper')):
            for policy in ('dense', 'greedy', 'optimal'):
                mine = [r for r in records if (r['device'], r['layout'], r['policy'])
                        == (device, layout, policy) and not np.isnan(r[column])
                        and (base == ALIKE or r['source'] not in ordered)]
                if mine:
                    best = max(mine, key=lambda r: r[column])
                    found.append({
                        'device': device, 'against': base, 'layout': layout, 'policy': policy,
                        'mean': float(np.mean([r[column] for r in mine])),
                        'best': best[column],
                        'best_at': f"{DECODERS[best['decoder']].label}, {best['source']}, "
                                   f"{best['sparsity']:.0%}",
                        'paper_mean': paper.SPEEDUPS[device]['mean'],
                        'paper_best': paper.SPEEDUPS[device]['best']})
    return found


def single_steps(steps: list[TimedReads]) -> tuple[np.ndarray, np.ndarray]:
    """Return (estimated, measured) seconds of every step of our reader, in the order taken."""
    # Those that share a measurement count once.
    ours = {one.step.key: one for one in steps if one.step.contender.reader == 'ours'}.values()
    order = np.argsort(np.concatenate([one.place for one in ours]), kind='stable')
    estimated = [np.full(len(one.seconds), one.step.estimated) for one in ours]
    return np.concatenate(estimated)[order], np.concatenate([o.seconds for o in ours])[order]


def estimates(timed: dict[str, list[TimedReads]]) -> list[Record]:
    """Return how well the profile foretold every single step, all and by decoder."""
    parts = {decoder: single_steps(steps) for decoder, steps in timed.items()}
    every = [np.concatenate(column) for column in zip(*parts.values(), strict=True)]
    return [{'decoder': decoder, **foretelling(*part)._asdict()}
            for decoder, part in {'all': every, **parts}.items()]
