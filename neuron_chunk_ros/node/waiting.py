# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whether it is time yet, and whether anyone still waits."""

import time
from collections.abc import Callable

_EVERY = 0.5      # s between two looks for who asked
_TOLERANCE = 0.1  # of a period: cameras are never quite regular


class Gone:
    """Called again and again; a reason once those that asked are all gone, else ''."""

    def __init__(self, count: Callable[[], int]):
        """`count`: tells how many there are; looked at now and then."""
        self._count = count
        self._looked = time.monotonic()
        self._seen = False

    def __call__(self) -> str:
        """Return the reason, or ''."""
        if time.monotonic() - self._looked < _EVERY:
            return ''
        self._looked = time.monotonic()
        there = self._count()
        self._seen = self._seen or there > 0
        return 'nobody listens any more' if self._seen and not there else ''


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
