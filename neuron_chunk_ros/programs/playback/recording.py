# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 to be played: its image topics, and their messages in order."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rosbags.rosbag2 import Reader
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from neuron_chunk_ros.programs.playback.options import PlayError

IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
# What depth cameras send; mono16 is also how some of them label depth.
_DEPTH_ENCODINGS = ('16UC1', '32FC1', '64FC1', 'mono16', '16SC1')
_STORAGES = {'.mcap': 'mcap', '.db3': 'sqlite3'}


@dataclass(frozen=True)
class Frame:
    """One image message as recorded: its topic, when it came and its stamp [ns], its CDR bytes."""

    topic: str
    time: int
    stamp: int
    data: bytes


@dataclass(frozen=True)
class ImageTopic:
    """A topic of the bag that carries images."""

    name: str
    type: str
    count: int

    def __str__(self) -> str:
        return f'{self.name} ({self.type.rpartition("/")[2]}, {self.count})'


class Recording:
    """Context manager: an open rosbag2 folder, .db3 or .mcap file.

    :raises PlayError: it isn't one, is damaged, or holds nothing; one line says which.
    """

    def __init__(self, path: Path):
        self.path = path
        self.unreadable = 0
        self._types = get_typestore(Stores.ROS2_HUMBLE)
        self._stack = ExitStack()

    def __enter__(self) -> Recording:
        self._refuse_other_things()
        with self._told():
            self._reader = self._stack.enter_context(Reader(self.path))
        if not self._reader.message_count:
            self._stack.close()
            raise PlayError(f'{self.path}: the bag is empty')
        self.start, self.end = self._reader.start_time, self._reader.end_time
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    @property
    def storage(self) -> str:
        """How it is stored: 'mcap' or 'sqlite3'."""
        if self.path.is_file():
            return _STORAGES[self.path.suffix]
        return 'mcap' if any(self.path.glob('*.mcap*')) else 'sqlite3'

    @cached_property
    def images(self) -> tuple[ImageTopic, ...]:
        """The topics with images, depth included, in order of their names."""
        return tuple(ImageTopic(name, info.msgtype, info.msgcount)
                     for name, info in sorted(self._reader.topics.items())
                     if info.msgtype in (IMAGE, COMPRESSED) and info.msgcount)

    def contents(self) -> str:
        """Return topics, types and counts in one line."""
        return ', '.join(f'{name} ({info.msgtype or "several types"}, {info.msgcount})'
                         for name, info in sorted(self._reader.topics.items()))

    def is_depth(self, topic: ImageTopic) -> bool:
        """Whether a topic carries distances: told by its name or its first message."""
        if any(word in topic.name.lower() for word in ('depth', 'disparity')):
            return True
        for _, _, data in self._messages([topic.name], None, None):
            message = self._decoded(data, topic.type)
            if message is None:
                return False
            kind = message.encoding if topic.type == IMAGE else message.format
            return kind.partition(';')[0].strip() in _DEPTH_ENCODINGS or 'Depth' in kind
        return False

    def frames(self, topics: list[ImageTopic], start: int, stop: int) -> Iterator[Frame]:
        """Yield the topics' messages received in [start, stop) [ns], oldest first.

        Messages that aren't what their type says are left out and counted in `unreadable`.

        :raises PlayError: the bag is damaged from here on.
        """
        types = {topic.name: topic.type for topic in topics}
        for name, time, data in self._messages(list(types), start, stop):
            message = self._decoded(data, types[name])
            if message is None:
                self.unreadable += 1
                continue
            stamp = message.header.stamp
            yield Frame(name, time, stamp.sec * 10**9 + stamp.nanosec, bytes(data))

    def _messages(self, topics: list[str], start: int | None, stop: int | None):
        connections = [c for c in self._reader.connections if c.topic in topics]
        with self._told():
            for connection, time, data in self._reader.messages(connections, start, stop):
                yield connection.topic, time, data

    def _decoded(self, data: bytes, kind: str):
        try:
            return self._types.deserialize_cdr(data, kind)
        except (SerdeError, struct.error, ValueError, IndexError):
            return None

    def _told(self) -> _Told:
        return _Told(lambda reason: f"{self.path}: not a readable bag ({reason}); 'ros2 bag "
                                    "reindex' or 'mcap recover' may mend one that was cut off")

    def _refuse_other_things(self) -> None:
        path = self.path
        if not path.exists():
            raise PlayError(f'{path}: no such bag')
        if path.suffix == '.bag' and path.is_file():
            raise PlayError(f'{path} is a ROS 1 bag: convert it first with rosbags-convert '
                            f'--src {path} --dst {path.with_suffix("")}')
        if path.is_dir() and not (path / 'metadata.yaml').is_file():
            files = sorted(p.name for p in path.iterdir() if p.suffix in _STORAGES)
            if not files:
                raise PlayError(f'{path}: not a bag: it holds no metadata.yaml')
            raise PlayError(f"{path}: metadata.yaml is missing, as after a recording that was cut "
                            f"off: run 'ros2 bag reindex {path}', or give {path / files[0]}")
        if path.is_file() and path.suffix not in _STORAGES:
            raise PlayError(f'{path}: not a bag: give a rosbag2 folder, .db3 or .mcap file')


class _Told:
    """Turns whatever a reader meets in a damaged file into one line."""

    def __init__(self, line: Callable[[str], str]):
        self._line = line

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        # Damaged bytes surface as anything: struct, zstd, lz4, apsw, YAML and index errors.
        if isinstance(error, Exception):
            reason = ' '.join(str(error).split()) or type(error).__name__
            raise PlayError(self._line(reason)) from error
