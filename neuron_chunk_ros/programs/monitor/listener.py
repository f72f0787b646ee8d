# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the node to watch and takes in what it publishes; publishes and asks nothing itself."""

import os
import time
from collections.abc import Callable

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from neuron_chunk_interfaces.msg import Answer, IoTelemetry
from neuron_chunk_ros.node.qos import DIAGNOSTICS, RESULTS
from neuron_chunk_ros.programs.monitor.known import Answered, Known, LevelChange

_ANSWER, _TYPE = '/answer', 'neuron_chunk_interfaces/msg/Answer'


class Listener:
    """A ROS node of its own with at most three subscriptions. A context.

    Callbacks run in spin(), so that what is known never changes while it is being drawn.
    """

    def __init__(self, heard: Callable[[Answered | LevelChange], None] = lambda event: None):
        self._heard = heard
        self._context = Context()

    def __enter__(self):
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node(
            f'neuron_chunk_monitor_{os.getpid()}', context=self._context, enable_rosout=False,
            start_parameter_services=False, use_global_arguments=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        return self

    def __exit__(self, *_):
        self._executor.shutdown(0.5)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def candidates(self) -> list[str]:
        """Return the full names of the nodes that offer answers, as far as discovered."""
        return sorted(
            topic[:-len(_ANSWER)] for topic, types in self._node.get_topic_names_and_types()
            if topic.endswith(_ANSWER) and _TYPE in types
            and self._node.count_publishers(topic))

    def listen(self, name: str) -> Known:
        """Subscribe to what the node of this full name publishes."""
        self.known = Known(name, time.monotonic())
        self._topic = name + _ANSWER
        node = self._node
        node.create_subscription(Answer, self._topic, self._answered, RESULTS)
        node.create_subscription(IoTelemetry, f'{name}/telemetry', self._stepped, RESULTS)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnosed, DIAGNOSTICS)
        return self.known

    def spin(self, timeout: float):
        """Take in what comes within the timeout [s], at most one message."""
        self._executor.spin_once(timeout_sec=timeout)

    def look_around(self):
        """Note whether the node is there at all."""
        self.known.offered = self._node.count_publishers(self._topic) > 0

    def _answered(self, message: Answer):
        self._heard(self.known.answered(message, time.monotonic(), time.time()))

    def _stepped(self, message: IoTelemetry):
        self.known.stepped(message, time.monotonic())

    def _diagnosed(self, message: DiagnosticArray):
        for change in self.known.diagnosed(message, time.monotonic(), time.time()):
            self._heard(change)
