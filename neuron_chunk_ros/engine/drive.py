# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The drive of a session: where it fails or hangs, what is held of the model has to do.

Reads that don't come back can't be taken back either: they and the memory that they fill are left
alone until they do, by a thread that waits for them so that nobody else has to. Meanwhile nothing
is read; a second after a fault that was made up for it is tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from neuron_chunk_ros.engine.step import LOOK_EVERY
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.reader import Batch

READ_TIMEOUT = 10.0  # seconds that a read may take where nothing can be done without it
_PATIENCE = 0.7  # seconds that a read may take, at least, where something can be done without it
_TIMES = 4       # a read may take as long as so many times what lies before it should
_AGAIN = 1.0     # seconds from a fault until reading is tried again
_TAKEN_BACK = 0.05  # seconds that taking reads back may keep a step


class HangingDriveError(ReadError):
    """A read has not come back in time."""


class Drive:
    """Whether the drive can be read, and for how long a read may keep a step waiting."""

    def __init__(self, forgiving: bool, timeout: float = READ_TIMEOUT):
        """Begin with a drive that works.

        :param forgiving: whether faults are made up for, or raised.
        :param timeout: seconds that a read may take where they are raised.
        """
        self.forgiving, self._timeout = forgiving, timeout
        self.fault = ''  # what is wrong; '' once a read has come back since
        self._again = 0.0
        self._waited_for = 0.0  # since when somebody waits for one read, on the monotonic clock
        self._left = 0.0        # since when reads were left alone that haven't come back
        self._gone = threading.Event()  # they all have
        self._gone.set()

    def usable(self) -> bool:
        """Whether to read now."""
        return self.gone() and (not self.fault or time.monotonic() >= self._again)

    def gone(self, patience: float = 0.0) -> bool:
        """Whether reads that were taken back have all ended, within so many seconds."""
        if self._gone.wait(patience):
            self._left = 0.0
            return True
        return False

    def why(self) -> str:
        """Say why it isn't usable."""
        waited = self.under_way()
        return ': '.join(filter(None, (self.fault, waited and f'a read has been under way for '
                                       f'{waited:.1f} s')))

    def under_way(self) -> float:
        """Return for how many seconds a read has kept everybody waiting; from any thread."""
        since = self._waited_for or (0.0 if self._gone.is_set() else self._left)
        return time.monotonic() - since if since else 0.0

    def failed(self, error: ReadError, under_way: Iterable[Batch]) -> None:
        """Note a fault to be made up for, and reads whose memory they may still fill."""
        if not self.forgiving:
            return
        self.fault = str(error)
        self._again = time.monotonic() + _AGAIN
        self.take_back(list(under_way))

    def take_back(self, batches: list[Batch]) -> bool:
        """Take back what has not started of some reads; the list is emptied.

        :return: False where what has started does not end: until `usable`, they fill their memory.
        """
        if all(batch.ready for batch in batches):
            batches.clear()
            self._waited_for = 0.0
            return self.gone()
        mine, batches[:] = list(batches), []
        since, self._waited_for = self._waited_for or time.monotonic(), 0.0
        self._left = self._left or since
        before, gone = self._gone, threading.Event()
        self._gone = gone

        def wait() -> None:
            mine.clear()  # which ends with the last of them
            before.wait()
            gone.set()
        threading.Thread(target=wait, name='reads taken back', daemon=True).start()
        return self.gone(_TAKEN_BACK)

    def when_gone(self, close: Callable[[], None]) -> None:
        """Close something that is read from, now or as soon as nothing is under way any more."""
        gone = self._gone
        if gone.is_set():
            close()
            return

        def wait() -> None:
            gone.wait()
            close()
        threading.Thread(target=wait, name='drive left behind', daemon=True).start()

    def worked(self) -> None:
        """Note that a read has come back as it should."""
        self.fault, self._waited_for = '', 0.0

    def look(self, path: str, looks: int, nbytes: int, rate: float) -> None:
        """Raise HangingDriveError where a read has been waited for too long.

        :param looks: how often it wasn't there, LOOK_EVERY seconds apart: a clock also runs while
            this process doesn't.
        :param nbytes: to come until then, at `rate` bytes/s; 0: nothing is known of it.
        """
        if looks == 1:
            self._waited_for = time.monotonic() - LOOK_EVERY
        patience = self._timeout
        if self.forgiving:
            patience = max(_PATIENCE, _TIMES * nbytes / rate) if rate else 10 * _PATIENCE
        waited = looks * LOOK_EVERY
        if waited > patience:
            raise HangingDriveError(f'{path}: a read has not come back for {waited:.1f} s')
