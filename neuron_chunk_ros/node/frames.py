# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The camera's side of the node: keeps the newest frame, converts none of them."""

import threading
import time
from dataclasses import dataclass

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from neuron_chunk_ros.node.qos import NEWEST_FRAME


@dataclass(frozen=True)
class FramesReport:
    """What diagnostics tell about the frames; times in seconds, rate in frames/s."""

    topic: str
    publishers: int
    received: int
    age: float | None
    rate: float
    description: str
    conversion_errors: int
    last_conversion_error: str


class Frames:
    """Holds the newest message of the image topic; older ones are dropped unseen.

    Frames are converted only when a question looks at them: at 30 Hz conversion would cost more
    than the answers.
    """

    def __init__(self, node: Node, transport: str):
        self._lock = threading.Lock()
        self._newest = None
        self._arrived: float | None = None
        self._received = 0
        self._rate_mark = (time.monotonic(), 0)
        self._conversion_errors = 0
        self._last_conversion_error = ''
        self._subscription = node.create_subscription(
            CompressedImage if transport == 'compressed' else Image, 'image', self._keep,
            NEWEST_FRAME, callback_group=MutuallyExclusiveCallbackGroup(),
            qos_overriding_options=QoSOverridingOptions.with_default_policies())
        self._node = node

    def _keep(self, message):
        with self._lock:
            self._newest = message
            self._arrived = time.monotonic()
            self._received += 1

    @property
    def topic(self) -> str:
        """The image topic's full name, remapping included."""
        return self._subscription.topic_name

    def newest(self) -> Image | CompressedImage | None:
        """Return the newest message, None before the first one."""
        with self._lock:
            return self._newest

    def converted(self, error: str = ''):
        """Note that a frame was converted, or why it could not be."""
        with self._lock:
            self._conversion_errors += bool(error)
            self._last_conversion_error = error

    def clear(self):
        """Forget the newest frame and the counts."""
        with self._lock:
            self._newest = self._arrived = None
            self._received = self._conversion_errors = 0
            self._rate_mark = (time.monotonic(), 0)
            self._last_conversion_error = ''

    def report(self) -> FramesReport:
        """Return counts and age now; the rate is the mean since the last call."""
        publishers = self._node.count_publishers(self.topic)
        with self._lock:
            now, (then, before) = time.monotonic(), self._rate_mark
            self._rate_mark = (now, self._received)
            newest = self._newest
            description = ''
            if isinstance(newest, Image):
                description = f'{newest.width}x{newest.height} {newest.encoding}'
            elif newest is not None:
                description = newest.format
            return FramesReport(
                self.topic, publishers, self._received,
                None if self._arrived is None else now - self._arrived,
                (self._received - before) / max(now - then, 1e-6), description,
                self._conversion_errors, self._last_conversion_error)
