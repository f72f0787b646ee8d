# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pruners that come along. Weights count by magnitude times their input's root mean square."""

from __future__ import annotations

import numpy as np

from neuron_chunk_ros.compress.algorithms import Linear, Pruner, pruner


class _Share(Pruner):
    def __init__(self, share: float = 0.5):
        if not 0 <= share < 1:
            raise ValueError(f'share {share}: want at least 0 and less than 1')
        self.share = share


@pruner('magnitude')
class Magnitude(_Share):
    """Of each output's weights, this share is left out (Wanda, Sun et al. 2024)."""

    def keep(self, linear: Linear) -> np.ndarray:
        """See Pruner."""
        score = np.abs(linear.weight) * linear.importance()[:, None]
        out = int(round(self.share * len(score)))
        kept = np.ones(score.shape, bool)
        if out:
            worst = np.argpartition(score, out - 1, axis=0)[:out]
            np.put_along_axis(kept, worst, False, axis=0)
        return kept


@pruner('n:m')
class NOfM(Pruner):
    """Of every m neighbouring inputs of an output, n stay."""

    def __init__(self, n: int = 2, m: int = 4):
        if not 1 <= n <= m:
            raise ValueError(f'{n} of {m}: want 1 <= n <= m')
        self.n, self.m = n, m

    def keep(self, linear: Linear) -> np.ndarray:
        """See Pruner."""
        score = np.abs(linear.weight) * linear.importance()[:, None]
        rows, columns = score.shape
        score = np.pad(score, ((0, -rows % self.m), (0, 0)), constant_values=-1)
        by = score.reshape(-1, self.m, columns)
        kept = np.zeros(by.shape, bool)
        best = np.argsort(-by, axis=1, kind='stable')[:, :self.n]
        np.put_along_axis(kept, best, True, axis=1)
        return kept.reshape(-1, columns)[:rows]


@pruner('rows')
class Rows(_Share):
    """A share of the input channels is left out altogether: their rows are never read."""

    whole = True

    def count(self, inputs: int) -> int:
        """See Pruner."""
        return max(1, inputs - round(self.share * inputs))

    def keep(self, linear: Linear) -> np.ndarray:
        """See Pruner."""
        score = np.linalg.norm(linear.weight, axis=1) * linear.importance()
        out = len(score) - self.count(len(score))
        kept = np.ones(len(score), bool)
        kept[np.argsort(score, kind='stable')[:out]] = False
        return np.broadcast_to(kept[:, None], linear.weight.shape)
