# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The drive of a model whose bases are held: where it fails or hangs, they have to do.

Reads that don't come back can't be taken back either: they and the memory that they fill are left
alone until they do. Meanwhile nothing is read; a second after a fault it is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from neuron_chunk_ros.engine.step import LOOK_EVERY
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.reader import Batch

_PATIENCE = 0.7  # seconds that a read may take, at least; a drive that tidies up takes half
_TIMES = 4       # a read may take as long as so many times what lies before it should
_AGAIN = 1.0     # seconds from a fault until reading is tried again


class HangingDriveError(ReadError):
    """A read has not come back in time."""


class Drive:
    """Whether the drive can be read, and for how long a read may keep a step waiting."""

    def __init__(self, forgiving: bool):
        """`forgiving`: whether faults are made up for, or raised."""
        self.forgiving = forgiving
        self.fault = ''  # what is wrong; '' once a read has come back since
        self._under_way: list[Batch] = []
        self._again = 0.0

    def usable(self) -> bool:
        """Whether to read now."""
        if not self.fault and not self._under_way:
            return True
        if time.monotonic() < self._again or not all(batch.ready for batch in self._under_way):
            return False
        self._under_way.clear()
        return True

    def failed(self, error: ReadError, under_way: Iterable[Batch]) -> None:
        """Note a fault to be made up for, and reads whose memory they may still fill."""
        if not self.forgiving:
            return
        self.fault = str(error)
        self._again = time.monotonic() + _AGAIN
        self._under_way.extend(under_way)

    def worked(self) -> None:
        """Note that a read has come back as it should."""
        self.fault = ''

    def look(self, path: str, looks: int, nbytes: int, rate: float) -> None:
        """Raise HangingDriveError where a read has been waited for too long.

        :param looks: how often it wasn't there, LOOK_EVERY seconds apart: a clock also runs while
            this process doesn't.
        :param nbytes: to come until then, at `rate` bytes/s; 0: nothing is known of it.
        """
        if not self.forgiving:
            return
        patience = max(_PATIENCE, _TIMES * nbytes / rate) if rate else 10 * _PATIENCE
        waited = looks * LOOK_EVERY
        if waited > patience:
            raise HangingDriveError(f'{path}: a read has not come back for {waited:.1f} s')
