# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Spending a step's milliseconds over its groups so that the importance kept is highest.

Each group's best selections trace a frontier of time against importance kept. Where all groups
pay the same price, importance per second, no time moved from one to another gains anything. The
frontiers are those of earlier steps: one frame is much like the last.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_BISECTIONS = 40
_WEIGHT_OF_NEW = 0.5


class Pacer:
    """Hands each group of a step its share of the time that is left.

    Learns from step to step, separately for each kind of step: the groups' frontiers, and the
    time that goes by beside reading.
    """

    def __init__(self, whole_seconds: Mapping[str, float]):
        """`whole_seconds`: by group, in decoder order, what reading all of it takes."""
        self._names = list(whole_seconds)
        self._index = {name: i for i, name in enumerate(self._names)}
        self._whole = np.array(list(whole_seconds.values()))
        self.whole_seconds = float(self._whole.sum())
        self._frontiers: dict[object, np.ndarray] = {}   # by step: [groups, points, 2]
        self._beside: dict[object, tuple[float, float]] = {}  # (per group, after the last)

    def begin(self, step: object, seconds: float, after: float = 0.0) -> None:
        """Plan a step of this kind (any key) of `seconds` wall time.

        :param after: seconds that follow the last group, as long as none are known.
        """
        self._step, self._seconds, self._after = step, seconds, after
        per_group, after = self._beside.get(step, (0.0, after))
        left = seconds - after - per_group * len(self._names)
        frontiers = self._frontiers.get(step)
        if frontiers is None or np.isnan(frontiers).any():
            plan = self._whole * min(1.0, left / max(self.whole_seconds, 1e-12))
        else:
            plan = spend(frontiers, left)
        # Never nothing: what a group's budget really is follows from the time left when it comes.
        self._plan = np.maximum(plan, 1e-3 * self._whole + 1e-12)
        self._left_of_plan = np.append(np.cumsum(self._plan[::-1])[::-1], 0.0)

    def share(self, group: str, elapsed: float, reading: float) -> float:
        """Return the reading time [s] for this group, whose turn it is now.

        :param elapsed: seconds since the step began.
        :param reading: of these, seconds with reads in flight.
        """
        at = self._index[group]
        known, after = self._beside.get(self._step, (0.0, self._after))
        # What goes by beside reading: this step's own rate counts more with each group done.
        done = at / len(self._names)
        rate = (elapsed - reading) / at if at else known
        beside = (done * rate + (1 - done) * known) if self._step in self._beside else rate
        left = self._seconds - elapsed - after - beside * (len(self._names) - at)
        return max(0.0, left) * self._plan[at] / self._left_of_plan[at]

    def learn(self, group: str, frontier: np.ndarray) -> None:
        """Note a group's frontier in this step, float64 [points, 2]: seconds, what is kept.

        What is kept is the share of the importance, or what that is worth beside other groups'.
        """
        known = self._frontiers.setdefault(
            self._step, np.full((len(self._names), *frontier.shape), np.nan))
        at = self._index[group]
        known[at] = frontier if np.isnan(known[at]).any() else (
            (1 - _WEIGHT_OF_NEW) * known[at] + _WEIGHT_OF_NEW * frontier)

    def end(self, until_last_group: float, reading: float, seconds: float) -> None:
        """Note how the step's time was divided [s].

        :param until_last_group: from the step's beginning to the end of its last group.
        """
        new = ((until_last_group - reading) / len(self._names), seconds - until_last_group)
        old = self._beside.get(self._step, new)
        self._beside[self._step] = tuple(
            (1 - _WEIGHT_OF_NEW) * a + _WEIGHT_OF_NEW * b for a, b in zip(old, new, strict=True))


def spend(frontiers: np.ndarray, seconds: float) -> np.ndarray:
    """Return each group's seconds [groups] so that the summed share kept is highest.

    :param frontiers: [groups, points, 2] of (seconds, share kept), ascending.
    :param seconds: for all groups together.
    """
    time, kept = frontiers[..., 0], frontiers[..., 1]
    if seconds >= time[:, -1].sum():
        return time[:, -1].copy()
    # At a price, each group takes the point that is worth most beyond its cost; none at all is
    # worth 0. The right price is found by halving, on a scale of orders of magnitude.
    time = np.concatenate([np.zeros((len(time), 1)), time], axis=1)
    kept = np.concatenate([np.zeros((len(kept), 1)), kept], axis=1)
    rows = np.arange(len(time))

    def at(price: float) -> np.ndarray:
        return time[rows, np.argmax(kept - price * time, axis=1)]

    low, high = -6.0, 12.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if at(10.0 ** middle).sum() > seconds:
            low = middle
        else:
            high = middle
    lean, rich = at(10.0 ** high), at(10.0 ** low)
    gap = rich.sum() - lean.sum()
    part = (seconds - lean.sum()) / gap if gap > 0 else 0.0
    return lean + np.clip(part, 0, 1) * (rich - lean)
