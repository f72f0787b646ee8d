# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Ratios of measured steps, with intervals, and who a step is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from neuron_chunk_ros.bench.contestants import BASELINE, Contender
from neuron_chunk_ros.bench.importance import HOT_COLD
from neuron_chunk_ros.bench.read.measure import TimedReads
from neuron_chunk_ros.bench.statistics import Interval, interval, median_replicas, resampled

# What the baseline is: top-k through the paper's reader, from the same storage; or, as in the
# paper, each matrix stored by itself and its rows as they come.
ALIKE, PAPERS = 'same storage', "the paper's storage"
BASES = (ALIKE, PAPERS)


class Comparison:
    """Ratios of medians among timed steps, with their bootstrap replicas."""

    def __init__(self, timed: dict[str, list[TimedReads]], repeats: int, seed: int):
        """Take the bootstrap samples; the same repeats are drawn for every step."""
        draws = resampled(repeats, np.random.default_rng(seed))
        self._steps: dict[tuple, tuple[TimedReads, float, np.ndarray]] = {}
        for each in timed.values():
            for one in each:
                step = one.step
                key = (step.decoder, step.layout, step.source, step.sparsity, step.contender)
                self._steps[key] = (one, float(np.median(one.seconds)),
                                    median_replicas(one.seconds, draws))

    def all(self) -> Iterable[tuple[tuple, TimedReads]]:
        """Yield (key, timed): (decoder, layout, source, sparsity, contender)."""
        for key, (one, _, _) in self._steps.items():
            yield key, one

    def has(self, key: tuple) -> bool:
        """Whether this step was measured."""
        return key in self._steps

    def median(self, key: tuple) -> Interval:
        """Return a step's median seconds."""
        _, value, replicas = self._steps[key]
        return interval(value, replicas)

    def ratio(self, above: tuple, below: tuple) -> tuple[float, np.ndarray]:
        """Return the ratio of two steps' medians and its replicas."""
        _, value, replicas = self._steps[above]
        _, other, others = self._steps[below]
        return value / other, replicas / others

    def mean(self, pairs: Sequence[tuple[tuple, tuple]]) -> tuple[Interval, Interval, tuple]:
        """Return the mean ratio of many pairs, the greatest, and which pair that is."""
        ratios = [self.ratio(*pair) for pair in pairs]
        values = np.array([value for value, _ in ratios])
        best = int(values.argmax())
        return (interval(values.mean(), np.mean([r for _, r in ratios], axis=0)),
                interval(values[best], ratios[best][1]), pairs[best])


def baseline_of(key: tuple, base: str) -> tuple:
    """Return the key of what a step is compared with.

    :param base: ALIKE or PAPERS.
    """
    decoder, layout, source, sparsity, _ = key
    if base == PAPERS:
        layout, source = 'separate', source.replace(HOT_COLD, '')
    return decoder, layout, source, sparsity, BASELINE


def pairs(comparison: Comparison, base: str, contender: Contender, decoder: str = ''
          ) -> list[tuple[tuple, tuple]]:
    """Return (baseline's key, contender's key) of the steps that a summary counts.

    Bundled storage; against the paper's, rows in hot-cold order where there are such.

    :param decoder: only this one's, if given.
    """
    found = []
    for key, _ in comparison.all():
        above, ordered = baseline_of(key, base), (*key[:2], key[2] + HOT_COLD, *key[3:])
        if (key[4] == contender and key[1] == 'bundled' and decoder in ('', key[0])
                and comparison.has(above) and (base == ALIKE or not comparison.has(ordered))):
            found.append((above, key))
    return found
