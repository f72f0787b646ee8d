# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Keeping something that comes irregularly to so many times a second."""

import time

_TOLERANCE = 0.1  # of a period: cameras are never quite regular


class Pace:
    """Lets through what comes at least a period after the last that was let through."""

    def __init__(self):
        self._last = -1e9

    def due(self, rate: float) -> bool:
        """Whether it is time; then it counts as let through. `rate`: per second; 0: always."""
        now = time.monotonic()
        if rate and now - self._last < (1 - _TOLERANCE) / rate:
            return False
        self._last = now
        return True
