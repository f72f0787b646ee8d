# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The cameras' side of the node: keeps the newest frames, converts none of them."""

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.node.graph import mismatch
from neuron_chunk_ros.node.qos import NEWEST_FRAME
from neuron_chunk_ros.storage.strict_json import shown

_KEPT_TO_SYNC = 8  # messages of each camera, where stamps must fit
_JUMP = int(0.5e9)  # ns that stamps go back by where time has begun anew, as in a bag that loops


@dataclass(frozen=True)
class Sighting:
    """What tells a frame from all others; `arrived` is on the monotonic clock [s]."""

    camera: str
    header: Header
    arrived: float

    def age(self) -> float:
        """Seconds since it arrived."""
        return time.monotonic() - self.arrived


@dataclass(frozen=True)
class Frame(Sighting):
    """An image message as it came."""

    message: Image | CompressedImage

    def sighting(self) -> Sighting:
        """Return what is worth keeping of it once the model has seen it: all but its pixels."""
        return Sighting(self.camera, self.header, self.arrived)


@dataclass(frozen=True)
class FrameReport:
    """What diagnostics tell about one camera; ages in seconds, rate in frames/s."""

    camera: str
    topic: str
    publishers: int
    received: int
    age: float | None
    rate: float
    description: str
    dropped: int
    bad: int
    last_bad: str
    last_bad_age: float | None
    mismatch: str = ''  # why none of the publishers is heard; '' where one is, or there is none


class Camera:
    """One image topic. Holds the newest message; older ones are dropped unseen.

    Frames are converted only when they are looked at: at 30 Hz conversion would cost more than
    the answers.
    """

    def __init__(self, node: Node, name: str, topic: str, frame_id: str, transport: str,
                 keep: int, on_frame: Callable[[str], None], on_jump: Callable[[], None]):
        """Make one that sees nothing before `subscribe`.

        :param keep: messages to hold.
        :param on_frame: called with the camera's name after each message; must not block.
        :param on_jump: called ahead of a message whose stamp lies before the last one's.
        """
        self.name, self._frame_id = name, frame_id
        self._node, self._on_frame, self._on_jump = node, on_frame, on_jump
        self._type = CompressedImage if transport == 'compressed' else Image
        self._topic, self._subscription = topic, None
        self._qos = copy.copy(NEWEST_FRAME)  # rclpy enters this topic's overrides in it
        # The frame that was looked at last, and its pixels; the worker's thread alone uses it.
        self.picture: tuple[Sighting, np.ndarray] | None = None
        self._lock = threading.Lock()
        self._frames: deque[Frame] = deque(maxlen=keep)
        self.clear()

    def subscribe(self):
        """Begin to see."""
        self._subscription = self._node.create_subscription(
            self._type, self._topic, self._keep, self._qos,
            callback_group=MutuallyExclusiveCallbackGroup(),
            qos_overriding_options=QoSOverridingOptions.with_default_policies())

    @property
    def topic(self) -> str:
        """The image topic's full name, remapping included."""
        return (self._topic if self._subscription is None else self._subscription.topic_name)

    def close(self):
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)

    def frames(self) -> list[Frame]:
        """Return the held frames, oldest first."""
        with self._lock:
            return list(self._frames)

    def looked_at(self, error: str = ''):
        """Note that a frame was converted, or why it could not be."""
        with self._lock:
            self._looked_at += 1
            if error:
                self._bad += 1
                self._bad_at = time.monotonic()
            self._last_bad = error

    def refused(self, reason: str):
        """Note that a frame was converted, but that the model can't take it."""
        with self._lock:
            self._bad += 1
            self._bad_at = time.monotonic()
            self._last_bad = reason

    def mismatch(self) -> tuple[int, str]:
        """Return how many publish on the topic, and why none is heard; see graph.mismatch."""
        return mismatch(self._node, self.topic, self._type, self._qos)

    def forget(self):
        """Forget the frames."""
        with self._lock:
            self._frames.clear()

    def clear(self):
        """Forget the frames and the counts."""
        self.forget()
        with self._lock:
            self._received = self._looked_at = self._bad = 0
            self._last_bad, self._bad_at = '', None
            self._mark = (time.monotonic(), 0)

    def report(self, count_dropped: bool) -> FrameReport:
        """Return counts and age now; the rate is the mean since the last call."""
        publishers, unheard = self.mismatch()
        with self._lock:
            now, (then, before) = time.monotonic(), self._mark
            self._mark = (now, self._received)
            newest = self._frames[-1] if self._frames else None
            return FrameReport(
                self.name, self.topic, publishers, self._received,
                None if newest is None else now - newest.arrived,
                (self._received - before) / max(now - then, 1e-6),
                '' if newest is None else _described(newest.message),
                max(0, self._received - self._looked_at) if count_dropped else 0,
                self._bad, self._last_bad,
                None if self._bad_at is None else now - self._bad_at, unheard)

    def _keep(self, message):
        header = message.header
        if self._frame_id:
            header = Header(stamp=header.stamp, frame_id=self._frame_id)
        frame = Frame(self.name, header, time.monotonic(), message)
        held = self.frames()
        if held and _stamp(frame) < _stamp(held[-1]) - _JUMP:
            self._on_jump()
        with self._lock:
            self._frames.append(frame)
            self._received += 1
        self._on_frame(self.name)


class Cameras:
    """All cameras of the node, in the order in which the model sees them."""

    def __init__(self, node: Node, parameters, on_frame: Callable[[str], None],
                 on_jump: Callable[[], None] = lambda: None):
        """Make them; nothing is seen before `subscribe`.

        :param parameters: the node's Parameters.
        :param on_frame: called with a camera's name after each of its messages.
        :param on_jump: called where time goes back; frames of before are forgotten by then.
        """
        settings = parameters.settings
        self._slop, self._on_jump = settings.sync_slop, on_jump
        self._settings = settings
        self._cameras = {
            name: Camera(node, name, *parameters.camera(name), settings.image_transport,
                         _KEPT_TO_SYNC if self._slop else 1, on_frame, self._jumped)
            for name in settings.cameras or ['']}

    def subscribe(self):
        """Begin to see, once everybody who is told of frames is there."""
        for camera in self._cameras.values():
            camera.subscribe()

    def _jumped(self):
        """Forget what is of before: no answer shall mix it with what comes now."""
        for camera in self._cameras.values():
            camera.forget()
        self._on_jump()

    @property
    def names(self) -> tuple[str, ...]:
        """The cameras' names; ('',) for a single one without a name."""
        return tuple(self._cameras)

    def __getitem__(self, name: str) -> Camera:
        return self._cameras[name]

    def close(self):
        """Unsubscribe from all."""
        for camera in self._cameras.values():
            camera.close()

    def clear(self):
        """Forget all frames and counts."""
        for camera in self._cameras.values():
            camera.clear()

    def reports(self) -> list[FrameReport]:
        """Return each camera's report."""
        return [camera.report(self._settings.mode == 'stream')
                for camera in self._cameras.values()]

    def newest(self, names=()) -> list[Frame]:
        """Return the newest frame of each camera, or of those named, that fit together.

        :raises RequestError: a camera that isn't there, has sent nothing yet, or nothing that
            fits in time; a frame older than max_frame_age.
        """
        for name in names:
            if name not in self._cameras:
                known = ', '.join(filter(None, self._cameras)) or 'no names'
                raise RequestError(f'there is no camera {shown(name)}: this node has {known}')
        held = []
        for name in names or self._cameras:
            frames = self._cameras[name].frames()
            if not frames:
                camera = self._cameras[name]
                _, unheard = camera.mismatch()
                raise RequestError(f'no frame has come on {camera.topic} yet: ' + (
                    unheard or 'publish images there or send some with the question'))
            held.append(frames)
        chosen = _together(held, self._slop) if self._slop else [f[-1] for f in held]
        if chosen is None:
            raise RequestError(
                f'no frames of {", ".join(f[-1].camera for f in held)} have stamps within '
                f'{self._slop:g} s of each other (sync_slop): are their clocks the same?')
        self.check_age(chosen)
        return chosen

    def check_age(self, frames: Sequence[Sighting]):
        """Raise RequestError where one of them is older than max_frame_age."""
        limit = self._settings.max_frame_age
        for frame in frames:
            if limit and frame.age() > limit:
                raise RequestError(f'the newest frame on {self._cameras[frame.camera].topic} is '
                                   f'{frame.age():.1f} s old, {limit:g} s are allowed '
                                   '(max_frame_age)')


def _together(held: list[list[Frame]], slop: float) -> list[Frame] | None:
    """Return one frame of each camera, all stamps within `slop` [s]; the newest such, or None."""
    for pivot in sorted((f for frames in held for f in frames), key=_stamp, reverse=True):
        # The oldest of a set: the others are the newest that are at most `slop` younger.
        chosen = []
        for frames in held:
            fitting = [f for f in frames if 0 <= _stamp(f) - _stamp(pivot) <= slop * 1e9]
            if not fitting:
                break
            chosen.append(max(fitting, key=_stamp))
        else:
            return chosen
    return None


def _stamp(frame: Frame) -> int:
    stamp = frame.header.stamp
    return stamp.sec * 10**9 + stamp.nanosec


def _described(message: Image | CompressedImage) -> str:
    if isinstance(message, Image):
        return f'{message.width}x{message.height} {message.encoding}'
    return message.format
