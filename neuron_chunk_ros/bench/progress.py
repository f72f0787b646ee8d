# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Telling how far a long run is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (what is done, how much of it, of how much)


class Counter:
    """Called once for each thing done."""

    def __init__(self, label: str, total: int, progress: Progress):
        """`progress` is told after each thing."""
        self._label, self._total, self._progress = label, total, progress
        self._done = 0

    def __call__(self) -> None:
        """Count one."""
        self._done += 1
        self._progress(self._label, self._done, self._total)
