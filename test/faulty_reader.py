# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A reader of which some reads fail or hang, behind the real engine."""

import threading

from neuron_chunk_ros.errors import ReadError


class FaultyReader:
    """A session's own reader, of whose reads some fail or don't come back."""

    def __init__(self, session, is_bad, hangs=False):
        self._products = session._products
        self._reader, self._is_bad, self._hangs = self._products.reader, is_bad, hangs
        self.count, self.back = 0, threading.Event()
        self._products.reader = self

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def submit(self, file, extents, buffer, at=0):
        number, self.count = self.count, self.count + 1
        if self.back.is_set() or not self._is_bad(number):
            return self._reader.submit(file, extents, buffer, at)
        if self._hangs:
            return HangingBatch(self._reader.submit(file, extents, buffer, at), self.back)
        raise ReadError(f'read {number} failed')


class HangingBatch:
    """As the real one's, its end waits for what has started."""

    def __init__(self, batch, back):
        self._batch, self._back = batch, back

    def __del__(self):
        self._back.wait()

    @property
    def ready(self):
        return self._back.is_set() and self._batch.ready

    def wait(self, timeout=None):
        return self._batch.wait(timeout) if self._back.wait(timeout) else None

    def wait_bytes(self, nbytes, timeout):
        return self._batch.wait_bytes(nbytes, timeout) if self._back.wait(timeout) else 0
