# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Publishes /diagnostics at a fixed rate, as REP-107 wants it."""

import socket
import time
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from neuron_chunk_ros.node.diagnostics import statuses
from neuron_chunk_ros.node.diagnostics.thresholds import ERROR, Status
from neuron_chunk_ros.node.qos import DIAGNOSTICS

Task = Callable[[], Status]
HEARTBEAT = 0.05  # s


class Diagnostics:
    """Asks each part for its status once a period and publishes them together.

    Names are those of REP-107, 'node: part', with the node's namespace where it has one, so that
    robots that share a graph can be told apart. A part of its own tells how long callbacks wait.

    :param period: seconds between two messages, of the wall: a bag that stands still must not
        silence them.
    :param tasks: returns the parts to ask now, by name; asked for at each tick.
    """

    def __init__(self, node: Node, period: float, tasks: Callable[[], dict[str, Task]]):
        self._node = node
        self._tasks = tasks
        self._name = node.get_fully_qualified_name().lstrip('/')
        self._hardware = socket.gethostname()
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', DIAGNOSTICS)
        # None until the executor spins: what it does before isn't late.
        self._beat: float | None = None
        self._longest = 0.0
        # Groups of their own: nothing else the node does may delay them but a lack of threads.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [
            node.create_timer(seconds, callback, clock=clock,
                              callback_group=MutuallyExclusiveCallbackGroup())
            for seconds, callback in ((HEARTBEAT, self._note_beat), (period, self.publish))]

    def publish(self):
        """Publish one message now."""
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        delay, self._longest = self.executor_delay(), 0.0
        for name, ask in {**self._asked(), 'executor': lambda: statuses.executor(delay)}.items():
            try:
                status = ask()
            except Exception as error:
                # A part that can't even tell how it is must not silence the others.
                status = _no_status(error)
            array.status.append(DiagnosticStatus(
                level=status.level, name=f'{self._name}: {name}', message=status.message,
                hardware_id=self._hardware,
                values=[KeyValue(key=k, value=str(v)) for k, v in status.values.items()]))
        self._publisher.publish(array)

    def executor_delay(self) -> float:
        """Return how long, at most, a callback had to wait since the last message [s]."""
        return max(self._longest, self._lateness())

    def _note_beat(self):
        self._longest = max(self._longest, self._lateness())
        self._beat = time.monotonic()

    def _lateness(self) -> float:
        beat = self._beat
        return 0.0 if beat is None else max(0.0, time.monotonic() - beat - HEARTBEAT)

    def _asked(self) -> dict[str, Task]:
        try:
            return self._tasks()
        except Exception as error:
            status = _no_status(error)
            return {'model': lambda: status}


def _no_status(error: Exception) -> Status:
    return Status(ERROR, f"no status: {type(error).__name__}: {' '.join(str(error).split())}")
