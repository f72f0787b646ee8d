# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where the importance comes from that reads are compared with.

Recorded from the tabletop model, or drawn: independent lognormal values with the coefficients of
variation that Neuron Chunking finds before vision-language models' down projections (Table 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from neuron_chunk_ros.chunking.hot_cold import hot_cold_order, marks

VARIATIONS = (1.07, 2.0, 4.55)
HOT_COLD = ', hot-cold'
SOURCES = ('recorded', f'recorded{HOT_COLD}', *(f'lognormal, cv {cv:g}' for cv in VARIATIONS))
_CALIBRATING = 20  # draws from which an order is computed


class Source(ABC):
    """Hands out importance vectors of any length."""

    name: str

    @abstractmethod
    def draw(self, group: str, rows: int, number: int) -> np.ndarray:
        """Return importance float32 [rows], mean about 1, the same for the same number.

        :param group: 'qkv', 'o', 'gate_up' or 'down'.
        """


class Lognormal(Source):
    """Independent values: no neighbour knows of another, no order helps."""

    def __init__(self, variation: float, seed: int):
        """`variation`: standard deviation / mean of the distribution."""
        self.name = f'lognormal, cv {variation:g}'
        self._sigma = float(np.sqrt(np.log1p(variation ** 2)))
        self._seed = [seed, round(100 * variation)]

    def draw(self, group: str, rows: int, number: int) -> np.ndarray:
        """See Source."""
        rng = np.random.default_rng([*self._seed, rows, number, *group.encode()])
        return rng.lognormal(-self._sigma ** 2 / 2, self._sigma, rows).astype(np.float32)


class Recorded(Source):
    """What the tabletop model's frames found important, laid side by side to the length needed.

    A piece is one layer's vector for one frame, divided by its mean, so that no layer as a whole
    outweighs another. Pieces follow in order of frame, then layer; no two of a draw are the same,
    and the draws share no frame while frames last.
    """

    name = 'recorded'

    def __init__(self, vectors: dict[str, np.ndarray]):
        """`vectors`: by group, float32 [frames, layers, rows]."""
        self._vectors = {}
        for group, found in vectors.items():
            mean = found.mean(axis=-1, keepdims=True)
            self._vectors[group] = np.divide(found, mean, out=np.ones_like(found),
                                             where=mean > 0).astype(np.float32)

    def draw(self, group: str, rows: int, number: int) -> np.ndarray:
        """See Source."""
        vectors = self._vectors[group]
        frames, layers, width = vectors.shape
        pieces = -(-rows // width)
        each = -(-pieces // layers)
        taken = (number * each + np.arange(each)) % frames
        return vectors[taken].reshape(-1)[:rows].copy()


class HotCold(Source):
    """Another source's vectors in hot-cold order, which is found from draws of their own."""

    def __init__(self, source: Source, first: int):
        """`first`: number of the first draw that the orders are computed from."""
        self.name = f'{source.name}{HOT_COLD}'
        self._source, self._first = source, first
        self._orders: dict[tuple[str, int], np.ndarray] = {}

    def draw(self, group: str, rows: int, number: int) -> np.ndarray:
        """See Source."""
        return self._source.draw(group, rows, number)[self.order(group, rows)]

    def order(self, group: str, rows: int) -> np.ndarray:
        """Return the row at each place, int32 [rows]."""
        if (group, rows) not in self._orders:
            seen = np.stack([self._source.draw(group, rows, self._first + i)
                             for i in range(_CALIBRATING)])
            counts = np.sum([marks(one) for one in seen], axis=0)
            self._orders[group, rows] = hot_cold_order(counts, seen.mean(axis=0))
        return self._orders[group, rows]


def variation(importance: np.ndarray) -> float:
    """Return the coefficient of variation."""
    return float(importance.std() / importance.mean())
