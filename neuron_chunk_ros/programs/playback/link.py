# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The player's side of ROS: publishes frames, asks, and keeps what the node publishes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import NodeNameNonExistentError
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

from neuron_chunk_interfaces.msg import Answer, IoTelemetry
from neuron_chunk_interfaces.srv import Query
from neuron_chunk_ros.node.middleware import room_for_large_messages
from neuron_chunk_ros.programs.playback.cameras import Camera
from neuron_chunk_ros.programs.playback.clock import BagClock
from neuron_chunk_ros.programs.playback.options import PlayError
from neuron_chunk_ros.programs.playback.recording import COMPRESSED, Frame

_KINDS = {'answer': Answer, 'telemetry': IoTelemetry, 'diagnostics': DiagnosticArray}
# Reliable, so that no frame is lost on its way; the node still skips those it has no time for.
_FRAMES = QoSProfile(depth=10)
_RESULTS = QoSProfile(depth=1000)
# How long it takes to learn who else is in the domain [s]: DDS says hello at once and, where that
# was missed, every 3 s.
_DISCOVERY = 4.0


@dataclass(frozen=True)
class Heard:
    """A message of the node: when it came in the bag's time [ns], itself, and its CDR bytes."""

    time: int
    message: object
    data: bytes


class Link:
    """Joins the present ROS domain. `heard` maps topic names to what came since the clock ran.

    :param node: full name of the vlm node.
    :param alive: called while waiting; raises where waiting has become pointless.
    """

    def __init__(self, node: str, clock: BagClock, alive: Callable[[], None]):
        self._alive = alive
        self._clock = clock
        self._name = node
        self.last_heard = time.monotonic()
        with room_for_large_messages():
            rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
            self._node = rclpy.create_node('neuron_chunk_play')
        self.query = self._node.create_client(Query, f'{node}/query')
        self.topics = {'answer': f'{node}/answer', 'telemetry': f'{node}/telemetry',
                       'diagnostics': '/diagnostics'}
        self.heard: dict[str, list[Heard]] = {kind: [] for kind in _KINDS}
        for kind, topic in self.topics.items():
            self._node.create_subscription(
                _KINDS[kind], topic, lambda data, kind=kind: self._keep(kind, data),
                _RESULTS, raw=True)
        self._publishers: dict[str, object] = {}
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._ending = False
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self._joined = time.monotonic()

    def close(self) -> None:
        """Leave ROS."""
        self._ending = True
        self._thread.join(2.0)
        # Before the context goes: the executor's own guards belong to it.
        self._executor.shutdown(1.0)
        self._node.destroy_node()
        rclpy.try_shutdown()

    def wait_for_node(self, timeout: float, hint: str) -> None:
        """Block until the node offers its service and its results.

        :raises PlayError: it doesn't within the timeout [s]; the line ends with the hint.
        """
        def ready():
            return self.query.service_is_ready() and all(
                self._node.count_publishers(self.topics[kind]) for kind in ('answer', 'telemetry'))
        self.until(ready, timeout, f'{self._name} did not show up within {timeout:g} s: {hint}')

    def find_inputs(self, cameras: list[Camera], timeout: float) -> dict[str, str]:
        """Return {bag topic: topic of the running node} for each camera.

        A camera goes to the node's topic of the same name, else to the one whose path names it,
        else to the node's only one.

        :raises PlayError: no fitting topic, or somebody else publishes there.
        """
        kind = cameras[0].topic.type
        inputs: list[str] = []

        def found():
            space, _, name = self._name.rpartition('/')
            try:
                subscribed = self._node.get_subscriber_names_and_types_by_node(name, space or '/')
            except NodeNameNonExistentError:
                return False
            inputs[:] = [topic for topic, types in subscribed if kind in types]
            return bool(inputs)
        # One of several topics, or another camera, may not have been heard of yet.
        time.sleep(max(0.0, self._joined + _DISCOVERY - time.monotonic()))
        short = kind.rpartition('/')[2]
        self.until(found, timeout, f'{self._name} subscribes to no {short} topic: is it active, '
                                   "and does its parameter 'image_transport' fit the bag?")
        chosen = {}
        for camera in cameras:
            bag_topic = camera.topic.name
            fitting = [t for t in inputs if t == bag_topic] or [
                t for t in inputs if camera.name and camera.name in t.split('/')]
            if not fitting and len(inputs) == len(cameras) == 1:
                fitting = inputs
            if len(fitting) != 1 or fitting[0] in chosen.values():
                raise PlayError(f'no topic of {self._name} fits {bag_topic}: it subscribes to '
                                f'{", ".join(inputs)}; choose with --topic or --camera')
            if self._node.count_publishers(fitting[0]):
                raise PlayError(f'somebody publishes on {fitting[0]} already: frames would mix; '
                                'stop that camera first')
            chosen[bag_topic] = fitting[0]
        return chosen

    def open_inputs(self, cameras: list[Camera], inputs: dict[str, str], timeout: float) -> None:
        """Announce the image topics and block until the node listens to each.

        :param inputs: {bag topic: topic to publish on}.
        """
        for camera in cameras:
            kind = CompressedImage if camera.topic.type == COMPRESSED else Image
            self._publishers[camera.topic.name] = self._node.create_publisher(
                kind, inputs[camera.topic.name], _FRAMES)
        publishers = self._publishers.values()
        self.until(lambda: all(p.get_subscription_count() for p in publishers), timeout,
                   f'{self._name} does not listen to {", ".join(inputs.values())}')

    def publish(self, frame: Frame) -> None:
        """Send a frame's bytes as they were recorded."""
        self._publishers[frame.topic].publish(frame.data)

    def ask(self, prompt: str):
        """Send a question; return its future."""
        return self.query.call_async(Query.Request(prompt=prompt))

    def until(self, condition: Callable[[], bool], timeout: float, failure: str) -> None:
        """Block until the condition holds; PlayError with this line after the timeout [s]."""
        limit = time.monotonic() + timeout
        while not condition():
            self._alive()
            if time.monotonic() > limit:
                raise PlayError(failure)
            time.sleep(0.02)

    def _keep(self, kind: str, data: bytes) -> None:
        if not self._clock.started:
            return
        now = self._clock.now()
        message = deserialize_message(data, _KINDS[kind])
        if kind == 'diagnostics':
            # Other nodes speak there, too.
            ours = tuple(f'{name}:' for name in (self._name, self._name[1:],
                                                 self._name.rpartition('/')[2]))
            if not any(status.name.startswith(ours) for status in message.status):
                return
            # Beside the bag it must not look as if it came from another day.
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
            data = serialize_message(message)
        else:
            self.last_heard = time.monotonic()
        self.heard[kind].append(Heard(now, message, data))

    def _spin(self) -> None:
        while not self._ending:
            self._executor.spin_once(timeout_sec=0.2)
