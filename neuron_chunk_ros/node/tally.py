# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node has done so far: answers, frames, refusals, errors. Diagnostics read it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from neuron_chunk_ros.engine.telemetry import Answer, StepTelemetry

HISTORY = 100  # answers whose latency counts, steps whose reads may count
RECENT = 10    # answers or frames that count as recent
# Reads of a few microseconds wait for the processor rather than for the storage, so reads are
# only compared with the profile where it says that they take this long together [s].
SLOW_SECONDS = 0.5


@dataclass(frozen=True)
class Recent:
    """What the newest answers and frames read, in what time, and what the profile foretold [s]."""

    bytes_read: int = 0
    read_seconds: float = 0.0
    profile_seconds: float = 0.0


@dataclass(frozen=True)
class Latency:
    """From arrival to answer over the last answers, waiting included [s]."""

    p50: float
    p95: float
    longest: float


@dataclass(frozen=True)
class Event:
    """Something that happened and passed."""

    reason: str
    age: float  # seconds from then to the counts that hold this


@dataclass(frozen=True)
class Counts:
    """One moment's counts; an error text is empty once later work went well."""

    answered: int = 0
    appended: int = 0    # frames into the stream
    refused: int = 0
    failed: int = 0
    missed: int = 0      # deadlines
    late_steps: int = 0  # answers and frames with a step that missed deadline_ms
    coarse: int = 0      # answers and frames that rest on bases alone
    drafted: int = 0     # tokens
    accepted: int = 0    # of these, right ones
    bytes_read: int = 0
    bytes_held: int = 0  # of rows that were multiplied without being read
    rows_ahead: int = 0  # read before they were chosen
    rows_ahead_wanted: int = 0  # of these, chosen then
    last_seconds: float = 0.0          # the last answer: arrival to answer
    last_tokens_per_second: float = 0.0
    last_bytes_read: int = 0
    last_read_seconds: float = 0.0
    last_append_seconds: float = 0.0   # the last frame
    last_attention: float = 1.0        # attention_density of the last answer or frame
    latency: Latency | None = None     # None before the first answer
    tokens_per_second: float = 0.0     # over recent answers; 0 before the first
    recent: Recent = Recent()
    read_error: str = ''
    model_error: str = ''
    last_refusal: Event | None = None
    last_overload: Event | None = None  # the last refusal because of a full queue
    last_miss: Event | None = None
    last_late_step: Event | None = None


class Tally:
    """Counts shared by the worker and the executor's threads.

    :param clock: tells the seconds that events' ages are measured in.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self.clear()

    def now(self) -> Counts:
        """Return the counts of this moment."""
        with self._lock:
            counts, now = self._counts, self._clock()
            latencies, reads = list(self._latencies), list(self._reads)
            speeds, events = list(self._speeds), dict(self._events)
        return replace(
            counts, latency=_latency(latencies), tokens_per_second=_speed(speeds),
            recent=_recent(reads),
            **{name: Event(reason, now - at) for name, (reason, at) in events.items()})

    def answered(self, answer: Answer, seconds: float):
        """Note an answer; clears both errors, unless it had to do without the drive.

        :param seconds: from the question's arrival to the answer, waiting for others included.
        """
        io, work = answer.io, (answer.tokens, answer.timing.total)
        with self._lock:
            self._latencies.append(seconds)
            self._speeds.append(work)
            self._note_reads(io)
            self._counts = replace(
                self._counts, answered=self._counts.answered + 1, last_seconds=seconds,
                last_tokens_per_second=_speed([work]), last_bytes_read=io.bytes_read,
                last_read_seconds=io.read_seconds)

    def appended(self, step: StepTelemetry, seconds: float):
        """Note a frame that went into the stream in this time; clears errors as an answer does."""
        with self._lock:
            self._note_reads(step)
            self._counts = replace(self._counts, appended=self._counts.appended + 1,
                                   last_append_seconds=seconds)

    def refused(self, reason: str, overload: bool = False):
        """Note a question that could not be answered as asked.

        :param overload: too many waited already, which is the node's trouble, not the asker's.
        """
        with self._lock:
            self._counts = replace(self._counts, refused=self._counts.refused + 1)
            self._happened('last_refusal', reason)
            if overload:
                self._happened('last_overload', reason)

    def missed_deadline(self, reason: str):
        """Note a question answered early, or not at all, because its time ran out."""
        with self._lock:
            self._counts = replace(self._counts, missed=self._counts.missed + 1)
            self._happened('last_miss', reason)

    def read_failed(self, reason: str):
        """Note that reading from flash failed."""
        with self._lock:
            self._counts = replace(
                self._counts, failed=self._counts.failed + 1, read_error=reason)

    def model_failed(self, reason: str):
        """Note that a question or a frame raised something unforeseen."""
        with self._lock:
            self._counts = replace(
                self._counts, failed=self._counts.failed + 1, model_error=reason)

    def clear(self):
        """Start over."""
        with self._lock:
            self._counts = Counts()
            self._latencies: deque[float] = deque(maxlen=HISTORY)
            self._speeds: deque[tuple[int, float]] = deque(maxlen=RECENT)
            self._reads: deque[Recent] = deque(maxlen=HISTORY)
            self._events: dict[str, tuple[str, float]] = {}

    def _note_reads(self, io: StepTelemetry):
        self._reads.append(Recent(io.bytes_read, io.read_seconds, io.profile_seconds))
        if io.deadline_missed:
            self._happened('last_late_step', f'{io.step} took {io.seconds:.2f} s')
        self._counts = replace(self._counts, bytes_read=self._counts.bytes_read + io.bytes_read,
                               bytes_held=self._counts.bytes_held + io.bytes_held,
                               rows_ahead=self._counts.rows_ahead + io.rows_ahead,
                               rows_ahead_wanted=(self._counts.rows_ahead_wanted
                                                  + io.rows_ahead_wanted),
                               late_steps=self._counts.late_steps + io.deadline_missed,
                               last_attention=io.attention_density,
                               coarse=self._counts.coarse + io.coarse,
                               drafted=self._counts.drafted + io.tokens_drafted,
                               accepted=self._counts.accepted + io.tokens_accepted,
                               read_error=io.fault, model_error='')

    def _happened(self, name: str, reason: str):
        self._events[name] = reason, self._clock()


def _latency(seconds: list[float]) -> Latency | None:
    if not seconds:
        return None
    p50, p95 = np.percentile(seconds, (50, 95))
    return Latency(float(p50), float(p95), max(seconds))


def _speed(work: list[tuple[int, float]]) -> float:
    """Return tokens per second of (tokens, seconds)."""
    tokens, seconds = map(sum, zip(*work, strict=True)) if work else (0, 0.0)
    return tokens / seconds if seconds > 0 else 0.0


def _recent(reads: list[Recent]) -> Recent:
    """Add up the newest reads; as many more as it takes to compare them with the profile."""
    newest = reversed(reads)
    taken = list(islice(newest, RECENT))
    foretold = sum(r.profile_seconds for r in taken)
    for more in newest:
        if foretold >= SLOW_SECONDS:
            break
        taken.append(more)
        foretold += more.profile_seconds
    return Recent(sum(r.bytes_read for r in taken), sum(r.read_seconds for r in taken), foretold)
