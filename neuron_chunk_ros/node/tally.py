# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node has done so far: answers, refusals, errors. Diagnostics read it."""

import threading
from collections import deque
from dataclasses import dataclass, replace

_RECENT = 10  # answers


@dataclass(frozen=True)
class Recent:
    """What the newest answers' reads took, and what the storage profile says they take [s]."""

    read_seconds: float = 0.0
    profile_seconds: float = 0.0


@dataclass(frozen=True)
class Counts:
    """One moment's counts; an error text is empty once a later answer went well."""

    answered: int = 0
    refused: int = 0
    failed: int = 0
    bytes_read: int = 0
    last_seconds: float = 0.0
    last_tokens: int = 0
    last_bytes_read: int = 0
    last_read_seconds: float = 0.0
    recent: Recent = Recent()
    read_error: str = ''
    model_error: str = ''


class Tally:
    """Counts shared by the worker and the executor's threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counts = Counts()
        self._recent: deque[Recent] = deque(maxlen=_RECENT)

    def now(self) -> Counts:
        """Return the counts of this moment."""
        return self._counts

    def answered(self, answer, seconds: float):
        """Note an answer (the engine's) that took this long; clears both errors."""
        with self._lock:
            old, io = self._counts, answer.io
            self._recent.append(Recent(io.read_seconds, io.profile_seconds))
            self._counts = replace(
                old, answered=old.answered + 1, bytes_read=old.bytes_read + io.bytes_read,
                last_seconds=seconds, last_tokens=answer.tokens, last_bytes_read=io.bytes_read,
                last_read_seconds=io.read_seconds, recent=_sum(self._recent),
                read_error='', model_error='')

    def refused(self):
        """Note a question that could not be answered as asked."""
        with self._lock:
            self._counts = replace(self._counts, refused=self._counts.refused + 1)

    def read_failed(self, reason: str):
        """Note that reading from flash failed."""
        with self._lock:
            self._counts = replace(
                self._counts, failed=self._counts.failed + 1, read_error=reason)

    def model_failed(self, reason: str):
        """Note that answering raised something unforeseen."""
        with self._lock:
            self._counts = replace(
                self._counts, failed=self._counts.failed + 1, model_error=reason)

    def clear(self):
        """Start over."""
        with self._lock:
            self._counts = Counts()
            self._recent.clear()


def _sum(parts: deque[Recent]) -> Recent:
    return Recent(sum(p.read_seconds for p in parts), sum(p.profile_seconds for p in parts))
