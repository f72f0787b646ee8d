# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a playback is asked to do, and the checks that need no bag and no ROS."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from neuron_chunk_ros.errors import NeuronChunkError
from neuron_chunk_ros.storage.atomic import check_target

_CAMERA = re.compile(r'[A-Za-z][A-Za-z0-9_]*')


class PlayError(NeuronChunkError):
    """A bag can't be played as asked, the node ended or the result can't be written."""


@dataclass(frozen=True)
class PlannedQuestion:
    """Asked once, when playback is at this time [s from the bag's beginning]."""

    at: float
    text: str


@dataclass(frozen=True)
class PlaybackOptions:
    """One playback.

    :param topics: image topics, or (camera name, topic) pairs; none: the bag's only one.
    :param standing: asked at each frame, or `standing_rate` times a second of real time.
    :param start: where to begin [s from the bag's beginning]; duration [s]: None for all.
    :param node: the node's name, namespace included; looked up in the present domain when live.
    :param parameters: of the node to be started, each NAME:=VALUE as ROS writes them.
    :param storage: of the new bag: 'sqlite3', 'mcap', or '' for the played one's.
    :param drain: longest wait for the node's last answers [s].
    """

    bag: Path
    out: Path
    topics: tuple[tuple[str, str], ...] = ()
    rate: float = 1.0
    start: float = 0.0
    duration: float | None = None
    standing: tuple[str, ...] = ()
    standing_rate: float = 0.0
    questions: tuple[PlannedQuestion, ...] = ()
    live: bool = False
    node: str = 'vlm'
    parameters: tuple[str, ...] = ()
    storage: str = ''
    drain: float = 30.0

    @property
    def pace(self) -> str:
        """The rate in words."""
        return 'at its own pace' if self.rate == 1 else f'at {self.rate:g} times its pace'

    def check(self) -> None:
        """Refuse what can't work, before anything is started. Raises PlayError."""
        check_target(self.out, PlayError)
        if not 0.01 <= self.rate <= 100:
            raise PlayError(f'rate is {self.rate:g}: give 0.01 to 100')
        if self.start < 0 or (self.duration is not None and self.duration <= 0):
            raise PlayError('start must not be negative, and duration must be above 0 seconds')
        for name, topic in self.topics:
            if name and not _CAMERA.fullmatch(name):
                raise PlayError(f"camera '{name}' of {topic}: a name has letters, digits and _")
        names = [name for name, _ in self.topics if name]
        paths = [topic for _, topic in self.topics]
        for twice in (*names, *paths):
            if names.count(twice) > 1 or paths.count(twice) > 1:
                raise PlayError(f'{twice} is given twice')
        for parameter in self.parameters:
            if ':=' not in parameter:
                raise PlayError(f"parameter '{parameter}': write NAME:=VALUE")
        if any(not text.strip() for text in (*self.standing, *(q.text for q in self.questions))):
            raise PlayError('a question is empty: ask something')
        if self.live and (self.standing or self.parameters):
            raise PlayError('a node that runs already keeps its own parameters: ask it once with '
                            "--at, or set its parameter 'watch'")
        by_itself = any(parameter.startswith(('watch:=', 'mode:=stream'))
                        for parameter in self.parameters)
        if not (self.live or self.standing or self.questions or by_itself):
            raise PlayError('nothing would be asked: give --ask QUESTION or --at SECONDS=QUESTION')
