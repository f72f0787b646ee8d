# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's side of the conversation: asks the node, and knows what each frame showed."""

import json
import threading
import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import Trigger

from neuron_chunk_interfaces.srv import Query


class DemoClient:
    """Calls `vlm/query` and `tabletop_publisher/next`, remembers the camera's truth by stamp.

    :param alive: called while waiting; raises where waiting has become pointless.
    """

    def __init__(self, alive):
        self._alive = alive
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('neuron_chunk_demo')
        self._shown: dict[tuple[int, int], int] = {}
        self._counts: dict[int, int] = {}
        self._node.create_subscription(
            String, 'tabletop_publisher/scene', self._remember, QoSProfile(depth=100))
        self._query = self._node.create_client(Query, 'vlm/query')
        self._next = self._node.create_client(Trigger, 'tabletop_publisher/next')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._ending = False
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self):
        """Leave ROS."""
        self._ending = True
        self._thread.join(2.0)
        self._executor.shutdown(1.0)
        self._node.destroy_node()
        rclpy.try_shutdown()

    def wait_until_ready(self, timeout: float):
        """Block until both nodes answer and frames flow.

        :raises TimeoutError: they don't within the timeout [s].
        """
        self._until(self._next.service_is_ready, timeout, 'the camera')
        self._until(self._query.service_is_ready, timeout, "the node's ~/query service")
        # Its services are there from the start; it looks at the camera once it is active.
        self._until(lambda: self._node.count_subscribers('image'), timeout,
                    'the node to be active')
        self.wait_for_scene(0, timeout)

    def wait_for_scene(self, index: int, timeout: float = 10.0):
        """Block until three frames of this scene were published, so that the node has one."""
        self._until(lambda: self._counts.get(index, 0) >= 3, timeout, f'frames of scene {index}')

    def show_next_scene(self) -> int:
        """Have the camera show its next scene; return that scene's index."""
        index = int(self._call(self._next, Trigger.Request(), 10.0).message)
        self.wait_for_scene(index)
        return index

    def ask(self, prompt: str, timeout: float) -> tuple[Query.Response, float]:
        """Ask about the newest frame; return the response and the latency [s]."""
        started = time.monotonic()
        response = self._call(self._query, Query.Request(prompt=prompt), timeout)
        return response, time.monotonic() - started

    def scene_at(self, stamp) -> int | None:
        """Return the index of the scene the frame with this stamp showed, None if unknown."""
        return self._shown.get((stamp.sec, stamp.nanosec))

    def _remember(self, message: String):
        truth = json.loads(message.data)
        stamp, index = truth['stamp'], truth['index']
        self._shown[stamp['sec'], stamp['nanosec']] = index
        self._counts[index] = self._counts.get(index, 0) + 1

    def _spin(self):
        while not self._ending:
            self._executor.spin_once(timeout_sec=0.2)

    def _call(self, client, request, timeout: float):
        future = client.call_async(request)
        self._until(future.done, timeout, f'an answer from {client.srv_name}')
        return future.result()

    def _until(self, condition, timeout: float, what: str):
        limit = time.monotonic() + timeout
        while not condition():
            self._alive()
            if time.monotonic() > limit:
                raise TimeoutError(f'waited {timeout:g} s for {what}')
            time.sleep(0.002)
