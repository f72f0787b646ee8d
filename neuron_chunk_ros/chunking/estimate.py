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
