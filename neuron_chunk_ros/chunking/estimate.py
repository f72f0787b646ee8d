# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How long reads will take: the storage profile, corrected by what reads really took.

The sum of T[s] over the runs is proportional to what is measured (Neuron Chunking, section 3.2),
but the factor moves with whatever else the machine does.
"""

from __future__ import annotations

import statistics
from collections import deque

_REMEMBERED = 15
_MOST = 20.0


class Correction:
    """The factor from the profile's seconds to real ones: the median of the newest ratios."""

    def __init__(self):
        """Trust the profile until something was observed."""
        self._ratios: deque[float] = deque(maxlen=_REMEMBERED)
        self.factor = 1.0

    def observe(self, profile_seconds: float, measured_seconds: float) -> None:
        """Note what reads took that the profile had put at `profile_seconds`."""
        if profile_seconds <= 0 or measured_seconds <= 0:
            return
        ratio = measured_seconds / profile_seconds
        self._ratios.append(min(max(ratio, 1 / _MOST), _MOST))
        self.factor = statistics.median(self._ratios)


class StepTimes:
    """What whole steps took, by kind: with everything read, and with rows skipped in some way.

    Skipping rows costs choosing and shorter reads. Whether it is worth that is a matter of the
    whole step's wall time, not of the reads' alone.
    """

    _NEWEST = 5       # steps that a median is taken of
    _ENOUGH = 3       # steps that are believed
    _BEFORE_TRIAL = 8  # sparse steps until one that reads everything is tried
    _AGAIN = 64       # steps after which the other way is tried once more
    _MOST = 64        # kinds and ways remembered

    def __init__(self):
        self._dense: dict[object, deque[float]] = {}
        self._sparse: dict[tuple, deque[float]] = {}
        self._since: dict[tuple, int] = {}

    def observe(self, kind: object, way: object, everything: bool, seconds: float) -> None:
        """Note what a step of this kind took that was to skip rows in this way."""
        side, key = (self._dense, kind) if everything else (self._sparse, (kind, way))
        side.setdefault(key, deque(maxlen=self._NEWEST)).append(seconds)
        self._since[kind, way] = self._since.get((kind, way), 0) + 1
        for kept in (self._dense, self._sparse, self._since):
            if len(kept) > self._MOST:
                del kept[next(iter(kept))]

    def dense(self, kind: object) -> float | None:
        """Return what a step of this kind takes that reads everything; None: not known yet."""
        found = self._dense.get(kind)
        return statistics.median(found) if found else None

    def sparse(self, kind: object, way: object) -> float | None:
        """Return what a step of this kind takes that skips rows in this way, or None."""
        found = self._sparse.get((kind, way))
        return statistics.median(found) if found else None

    def dense_is_faster(self, kind: object, way: object) -> bool:
        """Whether a step of this kind that is to skip rows in this way had better read all."""
        sparse = self._sparse.get((kind, way), ())
        if len(sparse) < self._ENOUGH:
            return False
        since = self._since.get((kind, way), 0)
        if kind not in self._dense:
            return since >= self._BEFORE_TRIAL
        faster = statistics.median(self._dense[kind]) < statistics.median(sparse)
        if since >= self._AGAIN:
            self._since[kind, way] = 0
            return not faster
        return faster
