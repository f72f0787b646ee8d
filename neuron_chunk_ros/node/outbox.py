# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sending responses no faster than all clients can take them.

With DDS, every client of a service is handed the responses to all of them, and keeps the ten that
came last until it has looked. A crowd that is refused in one burst would push its own responses
out of each other's queues, and wait for ever.

A client may ask before the node's middleware knows where it wants to hear the response. The
middleware gives up on that response after a tenth of a second, and rclpy only warns (Humble's
raises); here it is sent again, a few times.
"""

import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable

from rclpy._rclpy_pybind11 import RCLError
from rclpy.service import Service

# A client in Python looks at a response and throws it away in so long, with a core of its own [s].
_LOOK = 1.0e-3
# A response is with its client after so long, also where all cores are busy [s].
_ARRIVES = 0.2
# Responses that fit every client's queue side by side, with some room.
_AT_ONCE = 4
# When a response is sent again to a client that wasn't known yet [s after the last time]: one is
# known sooner, or not at all.
_AGAIN = 0.1, 0.2, 0.4, 0.8, 1.6, 3.2
_LOST = 'failed to send response'

_told = threading.local()


class Delivery:
    """Tells whether what this thread sent within it has a client: `with Delivery() as sent`."""

    def __enter__(self) -> 'Delivery':
        """Forget what was before."""
        _told.lost = False
        return self

    def __exit__(self, kind, *_) -> bool:
        """Take what Humble raises."""
        self.lost = _told.lost or kind is RCLError
        return kind is RCLError


def _hear_warnings():
    """Have Delivery hear of what rclpy only warns of, in the thread that sends."""
    before = warnings.showwarning
    if getattr(before, 'heard', False):
        return

    def show(message, category, *where, **more):
        if category is RuntimeWarning and str(message).startswith(_LOST):
            _told.lost = True
        else:
            before(message, category, *where, **more)

    show.heard = True
    warnings.showwarning = show
    warnings.filterwarnings('always', _LOST, RuntimeWarning)


class Turns:
    """Says when a response may be sent, whichever thread asks."""

    def __init__(self, clients: Callable[[], int]):
        """`clients`: tells how many are handed each response."""
        self._clients, self._cores = clients, len(os.sched_getaffinity(0))
        self._free = 0.0  # when all that was sent has been looked at, on the monotonic clock
        self._one = threading.Lock()

    def wait(self, messages: int = 1):
        """Return when so many messages may be sent."""
        with self._one:
            look = _LOOK * max(1.0, self._clients() / self._cores)
            now = time.monotonic()
            self._free = max(self._free, now) + messages * look
            ahead = self._free - now - max(_AT_ONCE, messages) * look
            if ahead > 0:
                time.sleep(ahead)


class Outbox:
    """Stands between an executor and a service, and sends its responses in a thread of its own.

    Few at a time go out at once. Of those that have to wait, answers go ahead of refusals, and
    both of what is sent again, be it this service's or others' (`send_again`).
    """

    def __init__(self, service: Service, turns: Turns):
        """Take over the service's responses."""
        _hear_warnings()
        self._send, self._turns = service.send_response, turns
        service.send_response = self._put
        self._waiting: deque[tuple] = deque()
        # (when, on the monotonic clock; how many times it was sent again; send and its arguments)
        self._again: list[tuple[float, int, tuple]] = []
        self._changed = threading.Condition()
        self._ending = self._ended = False
        self._sent = 0.0  # when, on the monotonic clock
        self._thread = threading.Thread(target=self._serve, name='outbox', daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Send what is left, for so many seconds at most [s], and end."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(timeout)
        # What was sent has to arrive before the service leaves.
        time.sleep(max(0.0, min(timeout, self._sent + _ARRIVES - time.monotonic())))

    def send_again(self, send: Callable, *arguments) -> None:
        """Send what was lost some time later, several times if need be."""
        self._later(0, (send, *arguments))

    def _put(self, response, header) -> None:
        with self._changed:
            if self._ended:
                self._send(response, header)
            elif response.success:
                self._waiting.appendleft((response, header))
            else:
                self._waiting.append((response, header))
            self._changed.notify()

    def _later(self, times: int, letter: tuple) -> None:
        with self._changed:
            if times < len(_AGAIN) and not self._ending:
                self._again.append((time.monotonic() + _AGAIN[times], times + 1, letter))
                self._changed.notify()

    def _serve(self) -> None:
        while (taken := self._next()) is not None:
            times, (send, *response) = taken
            with Delivery() as sent:
                send(*response)
            if sent.lost:
                self._later(times, (send, *response))
            self._sent = time.monotonic()

    def _next(self) -> tuple[int, tuple] | None:
        """Return how many times something was sent again, and it; None at the end."""
        with self._changed:
            while not self._waiting:
                if self._ending and not self._again:
                    self._ended = True
                    return None
                pause = min((when for when, *_ in self._again), default=None)
                if pause is not None:
                    pause = 0.0 if self._ending else pause - time.monotonic()
                    if pause <= 0:
                        break
                self._changed.wait(pause)
        self._turns.wait()
        with self._changed:
            if self._waiting:
                return 0, (self._send, *self._waiting.popleft())
            first = min(self._again, key=lambda one: one[0])
            self._again.remove(first)
            return first[1:]
