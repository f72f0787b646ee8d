# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whether who asked is still there: an answer for nobody would keep others waiting."""

import time
from collections.abc import Callable

_EVERY = 0.5  # s


class Gone:
    """Called again and again; a reason once those that were there are all gone, else ''."""

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
