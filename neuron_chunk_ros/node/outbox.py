# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sending responses no faster than all clients can take them.

With DDS, every client of a service is handed the responses to all of them, and keeps the ten that
came last until it has looked. A crowd that is refused in one burst would push its own responses
out of each other's queues, and wait for ever.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable

from rclpy.service import Service

# A client in Python looks at a response and throws it away in so long, with a core of its own [s].
_LOOK = 1.0e-3
# A response is with its client after so long, also where all cores are busy [s].
_ARRIVES = 0.2
# Responses that fit every client's queue side by side, with some room.
_AT_ONCE = 4


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

    Few at a time go out at once. Of those that have to wait, answers go ahead of refusals.
    """

    def __init__(self, service: Service, turns: Turns):
        """Take over the service's responses."""
        self._send, self._turns = service.send_response, turns
        service.send_response = self._put
        self._waiting: deque[tuple] = deque()
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

    def _put(self, response, header) -> None:
        with self._changed:
            if self._ended:
                self._send(response, header)
            elif response.success:
                self._waiting.appendleft((response, header))
            else:
                self._waiting.append((response, header))
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ending)
                if not self._waiting:
                    self._ended = True
                    return
            self._turns.wait()
            with self._changed:
                taken = self._waiting.popleft()
            self._send(*taken)
            self._sent = time.monotonic()
