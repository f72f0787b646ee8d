# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Publishes /diagnostics at a fixed rate, as REP-107 wants it."""

import socket
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node

from neuron_chunk_ros.node import statuses
from neuron_chunk_ros.node.qos import DIAGNOSTICS


class Diagnostics:
    """Asks each part for its status once a period and publishes them together."""

    def __init__(self, node: Node, period: float, parts: dict[str, Callable]):
        self._node = node
        self._parts = parts
        self._hardware = socket.gethostname()
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', DIAGNOSTICS)
        # A group of its own: nothing else the node does may delay it.
        self._timer = node.create_timer(
            period, self.publish, callback_group=MutuallyExclusiveCallbackGroup())

    def publish(self):
        """Publish one message now."""
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        for name, ask in self._parts.items():
            try:
                status = ask()
            except Exception as error:
                # A part that can't even tell how it is must not silence the others.
                status = statuses.Status(statuses.ERROR, f'no status: {error}')
            array.status.append(DiagnosticStatus(
                level=status.level, name=f'{self._node.get_name()}: {name}',
                message=status.message, hardware_id=self._hardware,
                values=[KeyValue(key=k, value=str(v)) for k, v in status.values.items()]))
        self._publisher.publish(array)
