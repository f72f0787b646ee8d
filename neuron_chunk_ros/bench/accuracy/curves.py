# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy over time: how much faster others read where they are as accurate as the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from neuron_chunk_ros.bench.accuracy.measure import AccuracyOptions, Evaluation, TimedReading
from neuron_chunk_ros.bench.accuracy.variants import BASELINE, DENSE_OURS, Contestant, Variant
from neuron_chunk_ros.bench.statistics import (
    RESAMPLES,
    Interval,
    interval,
    isotonic,
    median_replicas,
    resampled,
    seconds_at,
)
from neuron_chunk_ros.tabletop.exam import Exam


class Scores:
    """Accuracies of all outcomes, with replicas from one set of bootstrap samples."""

    def __init__(self, evaluation: Evaluation, exam: Exam, seed: int):
        """Everything `evaluation` needs must have been evaluated."""
        self._evaluation = evaluation
        keys = evaluation.keys()
        self._number = {key: number for number, key in enumerate(keys)}
        right = np.stack([evaluation.outcome(*key).right for key in keys])
        self._values = exam.accuracy(right)
        self._replicas = exam.accuracy_replicas(right, np.random.default_rng(seed), RESAMPLES)

    def __call__(self, variant: Variant, decoder: str, sparsities: Sequence[float]
                 ) -> tuple[np.ndarray, np.ndarray]:
        """Return accuracies [sparsities] and their replicas [sparsities, times]."""
        numbers = [self._number[self._evaluation.canonical(variant, decoder, sparsity)]
                   for sparsity in sparsities]
        return self._values[numbers], self._replicas[numbers]


class Curve:
    """A contestant's accuracy and seconds at each sparsity, with replicas."""

    def __init__(self, sparsities: Sequence[float], scores: tuple[np.ndarray, np.ndarray],
                 seconds: tuple[np.ndarray, np.ndarray]):
        """Both pairs: [sparsities], and replicas [sparsities, times]."""
        self.sparsities = np.asarray(sparsities)
        self.scores, self.score_replicas = scores
        self.seconds, self.second_replicas = seconds

    def speedups(self, baseline: Curve) -> tuple[np.ndarray, np.ndarray]:
        """Return the baseline's time at each of its sparsities / ours where we are as accurate.

        Values [sparsities] and replicas [sparsities, times].
        """
        values = baseline.seconds / self._seconds_like(
            baseline.scores, self.seconds, self.scores)
        replicas = [baseline.second_replicas[:, i] / self._seconds_like(
            baseline.score_replicas[:, i], self.second_replicas[:, i], self.score_replicas[:, i])
            for i in range(self.second_replicas.shape[1])]
        return values, np.stack(replicas, axis=1)

    def _seconds_like(self, wanted: np.ndarray, seconds: np.ndarray, scores: np.ndarray
                      ) -> np.ndarray:
        # The baseline's accuracy is made monotone, too: less noise in what is asked for.
        return seconds_at(isotonic(wanted[::-1])[::-1], self.sparsities, seconds, scores)


class Curves:
    """Every contestant's curve for every decoder, as measured."""

    def __init__(self, options: AccuracyOptions, timed: Iterable[TimedReading], scores: Scores):
        """Take the bootstrap samples; the same repeats are drawn for all."""
        draws = resampled(options.repeats, np.random.default_rng(options.seed))
        self._timed = {(t.decoder, t.contestant, t.sparsity): t for t in timed}
        self._curves: dict[tuple[str, Contestant], Curve] = {}
        for decoder, contestant in dict.fromkeys((d, c) for d, c, _ in self._timed):
            seconds = np.stack([self._timed[decoder, contestant, sparsity].seconds
                                for sparsity in options.sparsities])
            self._curves[decoder, contestant] = Curve(
                options.sparsities, scores(contestant.variant, decoder, options.sparsities),
                (np.median(seconds, axis=1), median_replicas(seconds, draws)))
        self._speedups = {key: curve.speedups(self._curves[key[0], BASELINE])
                          for key, curve in self._curves.items()}

    def __getitem__(self, key: tuple[str, Contestant]) -> Curve:
        """Return a decoder's curve of a contestant."""
        return self._curves[key]

    @property
    def timed(self) -> dict[tuple[str, Contestant, float], TimedReading]:
        """What was measured."""
        return self._timed

    def speedup(self, decoder: str, contestant: Contestant) -> list[Interval]:
        """Return the speed-up at equal accuracy for each of the baseline's sparsities."""
        values, replicas = self._speedups[decoder, contestant]
        return [interval(v, r) for v, r in zip(values, replicas, strict=True)]

    def against_dense(self, decoder: str, contestant: Contestant) -> list[Interval]:
        """Return our reader's time for everything / the contestant's, at each sparsity."""
        mine, dense = self._curves[decoder, contestant], self._curves[decoder, DENSE_OURS]
        return [interval(*pair) for pair in zip(
            dense.seconds / mine.seconds, dense.second_replicas / mine.second_replicas,
            strict=True)]

    def summary(self, decoders: Sequence[str], contestant: Contestant
                ) -> tuple[Interval, Interval, tuple[str, float]]:
        """Return the mean speed-up over decoders and sparsities, the greatest, and where."""
        sparsities = self._curves[decoders[0], BASELINE].sparsities
        return summarised([(decoder, *self._speedups[decoder, contestant])
                           for decoder in decoders], sparsities)


def summarised(parts: Sequence[tuple[str, np.ndarray, np.ndarray]],
               sparsities: Sequence[float]) -> tuple[Interval, Interval, tuple[str, float]]:
    """Return mean and greatest of (decoder, speed-ups, replicas), and where the greatest is."""
    values = np.stack([value for _, value, _ in parts])
    replicas = np.stack([replica for _, _, replica in parts])
    which, level = np.unravel_index(values.argmax(), values.shape)
    return (interval(values.mean(), replicas.mean(axis=(0, 1))),
            interval(values[which, level], replicas[which, level]),
            (parts[which][0], float(sparsities[level])))
