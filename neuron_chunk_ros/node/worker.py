# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One thread that does all the computing in turn, so that no ROS callback ever computes."""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from neuron_chunk_ros.errors import NeuronChunkError

# How long chores make way for questions [s], where those never end.
PATIENCE = 5.0


class QueueFullError(NeuronChunkError):
    """As many questions wait as may."""


@dataclass(frozen=True)
class Load:
    """What the worker has to do; chores, which make room for each other, don't count."""

    running: bool
    waiting: int
    limit: int


class Ticket:
    """A question's place in the queue."""

    def __init__(self, work: Callable[['Ticket'], object], deadline: float | None,
                 arrived: float | None = None):
        """`arrived`: on the monotonic clock; None: now."""
        self.arrived = time.monotonic() if arrived is None else arrived
        self.deadline = deadline
        self._result: object = None
        self._error: BaseException | None = None
        self.cancelled = ''  # why
        self.cancelled_at = 0.0  # on the monotonic clock
        self._work = work
        self._done = threading.Event()

    def elapsed(self) -> float:
        """Seconds since the question arrived."""
        return time.monotonic() - self.arrived

    def remaining(self) -> float | None:
        """Seconds left until the deadline, None without one."""
        return None if self.deadline is None else self.deadline - self.elapsed()

    def cancel(self, reason: str):
        """Have the work end soon, or not begin; the first reason is kept."""
        if not self.cancelled:
            self.cancelled, self.cancelled_at = reason, time.monotonic()

    def run(self):
        """Do the work; what it raises is kept for whoever waits."""
        # Whoever keeps the ticket shall not keep a question's images with it: neither by its work
        # nor by the frames that an error passed through.
        work, self._work = self._work, None
        if not self.cancelled:
            try:
                self._result = work(self)
            except Exception as error:
                error.__context__ = error.__cause__ = None
                self._error = error.with_traceback(None)
        self._done.set()

    def take(self) -> object:
        """Return what the work returned, or raise what it raised; None where it was cancelled.

        Once: an error that is raised again holds the frames of whoever takes it.
        """
        result, error = self._result, self._error
        self._result = self._error = None
        try:
            if error is not None:
                raise error
            return result
        finally:
            del error

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the work is done or was withdrawn; False where it isn't in time [s]."""
        return self._done.wait(timeout)


class Worker:
    """Runs questions one at a time, oldest first, and chores in between; survives what they raise.

    Chores (a frame to append, a standing prompt) have a place each: a newer one takes the place of
    an older one of the same kind that still waits. Questions go first: a running chore should end
    when one comes (`preempted`), and be offered again. One that has waited for long has its turn,
    to its end, so that questions without end don't stop the frames.
    """

    def __init__(self, queue_limit: int, patience: float = PATIENCE):
        """`patience`: seconds that a chore makes way for questions."""
        self._limit, self._patience = queue_limit, patience
        self._questions: deque[Ticket] = deque()
        self._chores: dict[Hashable, Callable[[], None]] = {}
        self._since: dict[Hashable, float] = {}  # when each kind of chore was first offered
        self._running: Ticket | None = None
        self._yielding = False  # whether the running chore makes way for questions
        self._made_way = False
        self._closing = ''
        self._changed = threading.Condition()
        # A daemon, so that a step that takes minutes can't hold up the process's end.
        self._thread = threading.Thread(target=self._serve, name='vlm_worker', daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Ticket], object], deadline: float | None = None,
               arrived: float | None = None) -> Ticket:
        """Queue a question and return at once.

        :param deadline: seconds from its arrival, None for no limit.
        :param arrived: on the monotonic clock; None: now.
        :raises QueueFullError: too many are waiting, or the worker is closing.
        """
        with self._changed:
            if self._closing:
                raise QueueFullError(self._closing)
            if len(self._questions) >= self._limit:
                raise QueueFullError(
                    f'busy: {len(self._questions)} questions are waiting already (queue_limit); '
                    'ask again later')
            ticket = Ticket(work, deadline, arrived)
            self._questions.append(ticket)
            self._changed.notify()
        return ticket

    def offer(self, kind: Hashable, chore: Callable[[], None]) -> bool:
        """Have a chore done once; False where it took the place of one that still waited.

        :param chore: must not raise.
        """
        with self._changed:
            replaced = kind in self._chores
            if not self._closing:
                self._chores[kind] = chore
                self._since.setdefault(kind, time.monotonic())
                self._changed.notify()
            return not replaced

    def preempted(self) -> bool:
        """Tell the running chore whether it should end and be offered again."""
        self._made_way = self._yielding and bool(self._questions)
        return self._made_way

    def load(self) -> Load:
        """Return what is running and waiting now."""
        with self._changed:
            return Load(self._running is not None, len(self._questions), self._limit)

    def withdraw(self, ticket: Ticket, reason: str) -> bool:
        """Take a question that still waits out of the queue; False where it doesn't wait."""
        with self._changed:
            if ticket not in self._questions:
                return False
            self._questions.remove(ticket)
            ticket.cancel(reason)
        ticket.run()
        return True

    def cancel(self, reason: str) -> int:
        """Cancel all questions and forget the chores; return how many questions that were."""
        with self._changed:
            waiting, running = list(self._questions), self._running
            self._questions.clear()
            self._chores.clear()
            self._since.clear()
            for ticket in (*waiting, *([running] if running else [])):
                ticket.cancel(reason)
        for ticket in waiting:
            ticket.run()
        return len(waiting) + (running is not None)

    def close(self, reason: str, timeout: float) -> bool:
        """Cancel everything, take nothing more and wait for the thread's end.

        :return: False where it hasn't ended within the timeout [s].
        """
        with self._changed:
            self._closing = reason
            self._changed.notify()
        self.cancel(reason)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def closing(self) -> str:
        """Why nothing more is taken; empty as long as the worker works."""
        return self._closing

    def _serve(self):
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._questions or self._chores or self._closing)
                kind = self._next_chore()
                if kind is not None:
                    chore = self._chores.pop(kind)
                elif self._questions:
                    self._running = self._questions.popleft()
                else:
                    return
            if kind is None:
                self._running.run()
            else:
                chore()
                del chore  # it may hold a frame
            with self._changed:
                self._running = None
                if kind is not None and not self._made_way:
                    self._since.pop(kind, None)
                    if kind in self._chores:  # a newer one came meanwhile
                        self._since[kind] = time.monotonic()

    def _next_chore(self) -> Hashable | None:
        """Return the kind of the chore to do now, None where a question goes first."""
        if not self._chores:
            return None
        kind = min(self._chores, key=self._since.__getitem__)
        self._yielding = time.monotonic() - self._since[kind] < self._patience
        self._made_way = False
        return None if self._questions and self._yielding else kind
