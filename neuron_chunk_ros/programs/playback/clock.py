# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The bag's time, which runs while it is played."""

from __future__ import annotations

import time


class BagClock:
    """Maps real time to the bag's [ns], `rate` times as fast; it stands until started."""

    def __init__(self, rate: float):
        self._rate = rate
        self._origin: tuple[float, int] | None = None

    def start(self, bag_time: int) -> None:
        """Let it be this time now [ns]."""
        self._origin = time.monotonic(), bag_time

    @property
    def started(self) -> bool:
        """Whether it runs."""
        return self._origin is not None

    def now(self) -> int:
        """Return the bag's time [ns]."""
        began, origin = self._origin
        return origin + round((time.monotonic() - began) * self._rate * 1e9)

    def until(self, bag_time: int) -> float:
        """Return how long it is until then in real time [s]; negative when it is past."""
        return (bag_time - self.now()) / 1e9 / self._rate
