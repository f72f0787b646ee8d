# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One thread that answers questions in turn, so that no ROS callback ever computes."""

import threading
import time
from collections import deque
from collections.abc import Callable

from neuron_chunk_ros.errors import NeuronChunkError


class QueueFullError(NeuronChunkError):
    """As many questions wait as may."""


class Ticket:
    """A question's place in the queue."""

    def __init__(self, work: Callable[['Ticket'], object], deadline: float | None):
        self.arrived = time.monotonic()
        self.deadline = deadline
        self.result: object = None
        self.error: BaseException | None = None
        self.cancelled = ''
        self._work = work
        self._done = threading.Event()

    def elapsed(self) -> float:
        """Seconds since the question arrived."""
        return time.monotonic() - self.arrived

    def remaining(self) -> float | None:
        """Seconds left until the deadline, None without one."""
        return None if self.deadline is None else self.deadline - self.elapsed()

    def run(self):
        """Do the work; what it raises is kept for whoever waits."""
        if not self.cancelled:
            try:
                self.result = self._work(self)
            except Exception as error:
                self.error = error
        self._done.set()

    def wait(self):
        """Block until the work is done or was cancelled while it waited."""
        self._done.wait()


class Worker:
    """Runs tickets one at a time, oldest first; survives whatever they raise."""

    def __init__(self, queue_limit: int):
        self._limit = queue_limit
        self._waiting: deque[Ticket] = deque()
        self._running: Ticket | None = None
        self._closing = ''
        self._changed = threading.Condition()
        # A daemon, so that a step that takes minutes can't hold up the process's end.
        self._thread = threading.Thread(target=self._serve, name='vlm_worker', daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Ticket], object], deadline: float | None = None) -> Ticket:
        """Queue the work and return at once.

        :param deadline: seconds from now, None for no limit.
        :raises QueueFullError: too many are waiting, or the worker is closing.
        """
        with self._changed:
            if self._closing:
                raise QueueFullError(self._closing)
            if len(self._waiting) >= self._limit:
                raise QueueFullError(
                    f'busy: {len(self._waiting)} questions are waiting already (queue_limit); '
                    'ask again later')
            ticket = Ticket(work, deadline)
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def load(self) -> tuple[bool, int]:
        """Return whether a ticket is running, and how many wait."""
        with self._changed:
            return self._running is not None, len(self._waiting)

    def cancel(self, reason: str) -> int:
        """Cancel what runs and what waits; return how many tickets that were."""
        with self._changed:
            tickets = [*self._waiting, *([self._running] if self._running else [])]
            for ticket in tickets:
                ticket.cancelled = reason
            return len(tickets)

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

    def _serve(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                self._running = self._waiting.popleft()
            self._running.run()
            with self._changed:
                self._running = None
