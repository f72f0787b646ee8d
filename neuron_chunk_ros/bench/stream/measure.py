# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frame appending: questions about frames taken in before, and with the frames in hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuron_chunk_ros.bench import profiles
from neuron_chunk_ros.bench.progress import Counter, Progress
from neuron_chunk_ros.bench.timing import in_turns
from neuron_chunk_ros.chunking import check_request
from neuron_chunk_ros.engine.telemetry import Answer, StepTelemetry
from neuron_chunk_ros.errors import BenchError

MODES = ('stream', 'snapshot')
_QUESTION = 'what colour is the circle?'
_CAMERA = (480, 640, 3)


@dataclass(frozen=True)
class Way:
    """What a session is told to skip; text of a prompt skips nothing."""

    policy: str
    sparsity: float = 0.0
    deadline_ms: float = 0.0

    @property
    def label(self) -> str:
        """What tables call it."""
        if self.deadline_ms:
            return f'{self.policy}, {self.deadline_ms:g} ms'
        return f'{self.policy}, {self.sparsity:.0%}' if self.sparsity else self.policy


@dataclass(frozen=True)
class StreamOptions:
    """What to measure."""

    bundle: Path
    frames: tuple[int, ...] = (1, 2, 4)      # in view of a question, ascending
    policies: tuple[str, ...] = ('dense', 'optimal')
    sparsity: float = 0.5                    # of every policy but dense
    deadline_ms: float = 0.0                 # more than 0: those policies also with this
    repeats: int = 5
    new_tokens: int = 8
    seed: int = 20_011

    def ways(self) -> tuple[Way, ...]:
        """Return what takes turns. Raises BenchError for what can't be asked of a policy."""
        skipping = [name for name in self.policies if name != 'dense']
        if self.deadline_ms and not skipping:
            raise BenchError('dense reads everything and keeps no deadline: name another policy')
        ways = [Way(name, 0.0 if name == 'dense' else self.sparsity) for name in self.policies]
        if self.deadline_ms:
            ways += [Way(name, 0.0, self.deadline_ms) for name in skipping]
        for way in ways:
            try:
                check_request(way.policy, way.sparsity, 0.0, way.deadline_ms)
            except ValueError as error:
                raise BenchError(str(error)) from error
        return tuple(dict.fromkeys(ways))


@dataclass(frozen=True)
class Asked:
    """One question and its bill."""

    way: Way
    mode: str                    # 'stream' or 'snapshot'
    frames: int                  # in view
    first_seconds: float         # from asking to its first word
    seconds: float               # and to its last
    answer: Answer


@dataclass(frozen=True)
class Appended:
    """One frame taken into a stream, and its bills."""

    way: Way
    held: int                    # frames in view before; where there is no more room, one leaves
    seconds: float
    bills: tuple[StepTelemetry, ...]   # the first frame's has the text ahead of it, too


@dataclass(frozen=True)
class Measured:
    """All that was measured, in the order of repeats, and what it was measured on."""

    asked: list[Asked]
    appended: list[Appended]
    facts: dict


def measure(options: StreamOptions, progress: Progress) -> Measured:
    """Ask and append in turns: each repeat has every way and mode once, in another order.

    :raises BenchError: for what can't be asked of a policy, or frames that don't fit.
    :raises BundleError, ReadError, MemoryBudgetError: see Session.open.
    """
    ways = options.ways()
    from neuron_chunk_ros.engine.session import Session
    with Session.open(options.bundle, on_progress=lambda share: progress(
            'loading', round(100 * share), 100)) as session:
        facts = {'model': session.model_name, 'flash_mb': session.bundle.flash_bytes / 1e6,
                 'backend': session.backend, 'direct_io': session.direct_io,
                 'notes': ' '.join(session.notes), 'profile': profiles.facts(session.profile)}
        found = _Turns(options, session)
        tasks = [found.stream(way) for way in ways] + [
            found.snapshot(way, frames) for way in ways for frames in options.frames]
        in_turns(tasks, options.repeats, np.random.default_rng(options.seed),
                 Counter('asking', len(tasks) * (options.repeats + 1), progress))
    return Measured(found.asked, found.appended, facts)


class _Turns:
    """What takes turns; keeps what was found, but for warming up."""

    def __init__(self, options: StreamOptions, session):
        rng = np.random.default_rng(options.seed)
        self._options, self._session = options, session
        self._window = max(options.frames)
        # One more than fit: so the last one to be appended makes the oldest leave.
        self._pictures = [rng.integers(0, 256, _CAMERA, np.uint8)
                          for _ in range(self._window + 1)]
        self._stream = session.stream(self._window)
        self.asked: list[Asked] = []
        self.appended: list[Appended] = []

    def stream(self, way: Way) -> Callable[[int], float]:
        """Return a task: append frame after frame, asking whenever as many as wanted are in."""
        def task(repeat: int) -> float:
            self._configure(way)
            started = time.perf_counter()
            for held, picture in enumerate(self._pictures):
                self._append(way, held, picture, repeat)
                if held + 1 in self._options.frames:
                    self._ask(way, 'stream', held + 1, repeat, lambda told: self._stream.ask(
                        _QUESTION, max_new_tokens=self._options.new_tokens, on_progress=told))
            self._stream.clear()
            return time.perf_counter() - started
        return task

    def snapshot(self, way: Way, frames: int) -> Callable[[int], float]:
        """Return a task: ask with all frames in hand."""
        def task(repeat: int) -> float:
            self._configure(way)
            return self._ask(way, 'snapshot', frames, repeat, lambda told: self._session.ask(
                _QUESTION, self._pictures[:frames], max_new_tokens=self._options.new_tokens,
                on_progress=told))
        return task

    def _configure(self, way: Way) -> None:
        self._session.configure(policy=way.policy, sparsity=way.sparsity, text_sparsity=0.0,
                                deadline_ms=way.deadline_ms)

    def _ask(self, way: Way, mode: str, frames: int, repeat: int,
             ask: Callable[[Callable], Answer]) -> float:
        first = None

        def told(stage: str, share: float, text: str) -> None:
            nonlocal first
            if stage == 'decode' and first is None:
                first = time.perf_counter() - started

        started = time.perf_counter()
        answer = ask(told)
        seconds = time.perf_counter() - started
        if repeat >= 0:
            self.asked.append(Asked(way, mode, frames, first, seconds, answer))
        return seconds

    def _append(self, way: Way, held: int, picture: np.ndarray, repeat: int) -> None:
        bills: list[StepTelemetry] = []
        started = time.perf_counter()
        self._stream.append(picture, on_step=bills.append)
        seconds = time.perf_counter() - started
        if len(self._stream.frames) != min(held + 1, self._window):
            raise BenchError(f"{self._window} frames don't fit the context of "
                             f'{self._session.context} tokens: ask for fewer with --frames')
        if repeat >= 0:
            self.appended.append(Appended(way, held, seconds, tuple(bills)))
