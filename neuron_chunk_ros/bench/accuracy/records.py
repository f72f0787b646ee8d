# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `bench accuracy` found, as plain records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuron_chunk_ros.bench import paper
from neuron_chunk_ros.bench.accuracy.curves import Curve, Curves, Scores, summarised
from neuron_chunk_ros.bench.accuracy.measure import (
    AccuracyOptions,
    Evaluation,
    TimedReading,
    frame_seconds,
)
from neuron_chunk_ros.bench.accuracy.variants import (
    BASELINE,
    CONTESTANTS,
    DENSE,
    Contestant,
    Variant,
    simulated,
)
from neuron_chunk_ros.bench.report import Record
from neuron_chunk_ros.bench.shapes import DECODERS
from neuron_chunk_ros.bench.statistics import RESAMPLES, foretelling, interval
from neuron_chunk_ros.chunking import runs

BINS = 10  # of run lengths, in powers of two


def describe(contestant: Contestant) -> Record:
    """Return a contestant as a record's fields."""
    return {**describe_variant(contestant.variant), 'layout': contestant.layout,
            'reader': contestant.reader}


def describe_variant(variant: Variant) -> Record:
    """Return a variant as a record's fields."""
    return {'policy': variant.policy, 'order': 'hot-cold' if variant.hot_cold else 'original',
            'budgets': variant.budgets,
            'falls_back': variant.policy == 'optimal' and variant.falls_back}


def points(options: AccuracyOptions, evaluation: Evaluation, curves: Curves) -> list[Record]:
    """Return a record for every decoder, contestant and sparsity."""
    records = []
    for decoder in options.decoders:
        for contestant in CONTESTANTS:
            curve = curves[decoder, contestant]
            speedups = curves.speedup(decoder, contestant)
            dense = curves.against_dense(decoder, contestant)
            for i, sparsity in enumerate(options.sparsities):
                outcome = evaluation.outcome(contestant.variant, decoder, sparsity)
                timed = curves.timed[decoder, contestant, sparsity]
                score = interval(curve.scores[i], curve.score_replicas[i])
                median = interval(curve.seconds[i], curve.second_replicas[i])
                records.append({
                    'decoder': decoder, **describe(contestant), 'sparsity': sparsity,
                    'accuracy': score.value, 'accuracy_low': score.low,
                    'accuracy_high': score.high, 'rows_read': outcome.rows,
                    'importance_kept': outcome.kept,
                    'estimated_ms': 1e3 * float(np.median(timed.estimated)),
                    'median_ms': 1e3 * median.value, 'low_ms': 1e3 * median.low,
                    'high_ms': 1e3 * median.high, 'speedup': speedups[i].value,
                    'speedup_low': speedups[i].low, 'speedup_high': speedups[i].high,
                    'against_dense': dense[i].value, 'against_dense_low': dense[i].low,
                    'against_dense_high': dense[i].high})
    return records


def speedups(options: AccuracyOptions, curves: Curves, contestants: Sequence[Contestant]
             ) -> list[Record]:
    """Return mean and best speed-up at equal accuracy, over all decoders and for each."""
    records = []
    for contestant in contestants:
        for decoder in ('all', *options.decoders):
            mean, best, (where, sparsity) = curves.summary(
                options.decoders if decoder == 'all' else [decoder], contestant)
            records.append({
                'contestant': contestant.label, **describe(contestant), 'decoder': decoder,
                'mean': mean.value, 'mean_low': mean.low, 'mean_high': mean.high,
                'best': best.value, 'best_low': best.low, 'best_high': best.high,
                'best_at': f'{DECODERS[where].label}, {sparsity:.0%}'})
    return records


def contiguity(options: AccuracyOptions, evaluation: Evaluation) -> list[Record]:
    """Return the distribution of run lengths near 50 % sparsity, by powers of two."""
    sparsity = min(options.sparsities, key=lambda level: abs(level - 0.5))
    records = []
    for decoder in options.decoders:
        for variant in dict.fromkeys(c.variant for c in CONTESTANTS if c.variant != DENSE):
            chosen = [one for group in evaluation.runs(variant, decoder, sparsity)
                      for one in group]
            lengths = np.concatenate([one[:, 1] for one in chosen])
            counts = sum(runs.contiguity(one, BINS) for one in chosen)
            bins = np.minimum(np.log2(lengths).astype(int), BINS - 1)
            rows = np.bincount(bins, lengths, minlength=BINS)
            for k in range(BINS):
                records.append({
                    'decoder': decoder, **describe_variant(variant), 'sparsity': sparsity,
                    'shortest': 2 ** k, 'longest': 2 ** (k + 1) - 1, 'runs': int(counts[k]),
                    'share_of_rows': rows[k] / rows.sum(),
                    'mean_run': float(lengths.mean())})
    return records


def single_steps(timed: Sequence[TimedReading]) -> tuple[np.ndarray, np.ndarray]:
    """Return (estimated, measured) seconds of every frame our reader read, in the order taken."""
    # Those that share a measurement count once.
    ours = {one.place[0]: one for one in timed if one.contestant.reader == 'ours'}.values()
    order = np.argsort(np.concatenate([one.place for one in ours]), kind='stable')
    return (np.concatenate([one.estimated for one in ours])[order],
            np.concatenate([one.seconds for one in ours])[order])


def estimates(options: AccuracyOptions, timed: Sequence[TimedReading]) -> list[Record]:
    """Return how well the profile foretold every frame, all and by decoder."""
    parts = {decoder: single_steps([t for t in timed if t.decoder == decoder])
             for decoder in options.decoders}
    every = [np.concatenate(column) for column in zip(*parts.values(), strict=True)]
    return [{'decoder': decoder, **foretelling(*part)._asdict()}
            for decoder, part in {'all': every, **parts}.items()]


def simulate(options: AccuracyOptions, evaluation: Evaluation, scores: Scores
             ) -> tuple[list[Record], list[Record]]:
    """Return the simulated devices' points, and their means and bests beside the paper's."""
    every, summary = [], []
    for device in options.devices:
        contestants = simulated(device)
        compared: dict[Contestant, list] = {contestant: [] for contestant in contestants}
        for decoder in options.decoders:
            curves = {contestant: _simulated_curve(options, evaluation, scores, device,
                                                   contestant, decoder)
                      for contestant in contestants}
            for contestant, curve in curves.items():
                values, replicas = curve.speedups(curves[BASELINE])
                compared[contestant].append((decoder, values, replicas))
                for i, sparsity in enumerate(options.sparsities):
                    found = interval(values[i], replicas[i])
                    every.append({
                        'device': device, 'decoder': decoder,
                        **describe_variant(contestant.variant), 'layout': contestant.layout,
                        'sparsity': sparsity, 'accuracy': curve.scores[i],
                        'simulated_ms': 1e3 * curve.seconds[i], 'speedup': found.value,
                        'speedup_low': found.low, 'speedup_high': found.high})
        for contestant, parts in compared.items():
            mean, best, (where, sparsity) = summarised(parts, options.sparsities)
            stored = '' if contestant.layout == 'bundled' else '; separate matrices'
            summary.append({
                'device': device, **describe_variant(contestant.variant),
                'layout': contestant.layout, 'label': f'{contestant.variant.label}{stored}',
                'mean': mean.value, 'mean_low': mean.low, 'mean_high': mean.high,
                'best': best.value, 'best_low': best.low, 'best_high': best.high,
                'best_at': f'{DECODERS[where].label}, {sparsity:.0%}',
                'paper_mean': paper.SPEEDUPS[device]['mean'],
                'paper_best': paper.SPEEDUPS[device]['best']})
    return every, summary


def _simulated_curve(options: AccuracyOptions, evaluation: Evaluation, scores: Scores, device: str,
                     contestant: Contestant, decoder: str) -> Curve:
    values = np.array([
        frame_seconds(evaluation, contestant, decoder,
                      evaluation.runs(contestant.variant, decoder, sparsity), device).mean()
        for sparsity in options.sparsities])
    return Curve(options.sparsities, scores(contestant.variant, decoder, options.sparsities),
                 (values, np.repeat(values[:, None], RESAMPLES, axis=1)))
