# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a policy to the rows it reads for each frame of the tabletop model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from neuron_chunk_ros.chunking import runs

# (number of the group, importance float32 [rows] as rows lie on flash) -> runs
Select = Callable[[int, np.ndarray], np.ndarray]


class FrameSelections:
    """Chooses for every frame and group; remembers the first frames' choices.

    What `FrameMasks` wants to be called with.
    """

    def __init__(self, select: Select, orders: Sequence[np.ndarray | None], remember: int):
        """Prepare.

        :param orders: original row number at each place on flash, of each group; None as is.
        :param remember: frames whose choices are kept.
        """
        self._select, self._orders, self._remember = select, orders, remember
        self._read: list[list[np.ndarray]] = [[] for _ in orders]
        self._kept = 0.0
        self._choices = 0

    def __call__(self, index: int, importance: np.ndarray) -> np.ndarray:
        """Choose: float32 [frames, rows] -> bool [frames, rows], both in the original order."""
        order, read = self._orders[index], np.zeros(importance.shape, bool)
        for frame, mine in enumerate(importance):
            rows = runs.indices(self._select(index, mine if order is None else mine[order]))
            read[frame, rows if order is None else order[rows]] = True
            total = float(mine.sum())
            self._kept += float(mine[read[frame]].sum()) / total if total else 1.0
        self._choices += len(importance)
        room = self._remember - len(self._read[index])
        self._read[index] += list(read[:max(0, room)])
        return read

    @property
    def read(self) -> list[np.ndarray]:
        """Of each group the rows read for the first frames, bool [frames, rows]."""
        return [np.stack(rows) for rows in self._read]

    @property
    def importance_kept(self) -> float:
        """Share of the importance that was kept, mean over frames and groups."""
        return self._kept / self._choices if self._choices else 1.0


def as_runs(read: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    """Return the runs on flash of the rows that are read, bool [rows] in the original order."""
    placed = read if order is None else read[order]
    steps = np.flatnonzero(np.diff(np.concatenate([[False], placed, [False]]).astype(np.int8)))
    return np.stack([steps[::2], steps[1::2] - steps[::2]], axis=1).astype(np.int64)
