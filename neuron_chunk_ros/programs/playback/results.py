# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What came out of a playback, as numbers."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from neuron_chunk_ros.programs.playback.options import PlannedQuestion, PlaybackOptions


@dataclass(frozen=True)
class Point:
    """An answer, or a frame appended to the context: one mark in each panel of the page.

    :param at: when it came [s from the bag's beginning].
    :param rate: of its reads [MB/s].
    :param kept: share of the importance kept, 0 to 1.
    """

    at: float
    seconds: float
    megabytes: float
    rate: float
    kept: float


@dataclass
class Results:
    """Messages with their times in the bag, and figures of them.

    :param start: the bag's beginning [ns].
    :param played: (topic, bag time [ns], stamp [ns]) of each frame.
    :param heard: by kind: answer, telemetry, diagnostics; lists of Heard.
    :param topics: the topic of each kind.
    :param refused: questions that got no answer, and why.
    :param behind: how late frames were sent at worst [s].
    :param ending: what ended it before its time: an exception, or None.
    """

    options: PlaybackOptions
    storage: str
    start: int
    played: list[tuple[str, int, int]]
    heard: dict[str, list]
    topics: dict[str, str]
    refused: list[tuple[PlannedQuestion, str]] = field(default_factory=list)
    behind: float = 0.0
    unreadable: int = 0
    ending: BaseException | None = None

    @cached_property
    def answers(self) -> list[tuple[float, object]]:
        """(seconds from the bag's beginning, Answer), in the order they came."""
        return [(self.at(heard.time), heard.message) for heard in self.heard['answer']]

    def at(self, time: int) -> float:
        """Turn a time [ns] into seconds from the bag's beginning."""
        return (time - self.start) / 1e9

    @cached_property
    def answer_points(self) -> list[Point]:
        """The answers' figures; seconds are from the question to the answer."""
        return [_point(at, answer.timing.total, answer.io) for at, answer in self.answers]

    @cached_property
    def append_points(self) -> list[Point]:
        """The figures of frames that were appended to the context, in stream mode."""
        return [_point(self.at(heard.time), heard.message.seconds, heard.message)
                for heard in self.heard['telemetry'] if heard.message.step == 'append']

    @cached_property
    def looks(self) -> list[float]:
        """When each frame was first looked at [s from the bag's beginning], ascending."""
        # Whoever else asks a running node may send images along.
        ours = {stamp for _, _, stamp in self.played}
        appended = [self.at(heard.time) for heard in self.heard['telemetry']
                    if heard.message.step == 'append' and stamp_of(heard.message.header) in ours]
        if appended:  # answers rest on these
            return appended
        first: dict[tuple, float] = {}
        for at, answer in self.answers:
            cameras = answer.cameras or [''] * len(answer.images)
            for camera, header in zip(cameras, answer.images, strict=True):
                first.setdefault((stamp_of(header), header.frame_id, camera), at)
        answered = {key[:2] for key in first}
        # Those whose answer told nothing new.
        for heard in self.heard['telemetry']:
            key = stamp_of(heard.message.header), heard.message.header.frame_id
            if key not in answered:
                first.setdefault((*key, ''), self.at(heard.time))
        return sorted(at for (stamp, *_), at in first.items() if stamp in ours)

    @property
    def megabytes(self) -> float:
        """All that was read from flash [MB]: by every step, whatever became of its answer."""
        return sum(heard.message.bytes_read for heard in self.heard['telemetry']
                   if heard.message.step != 'answer') / 1e6

    @property
    def median_seconds(self) -> float | None:
        """Median time from question to answer [s], None without answers."""
        return statistics.median(p.seconds for p in self.answer_points) if self.answers else None

    @property
    def model(self) -> str:
        """Model and policy as the node tells them, empty where it told nothing."""
        told = [answer.io for _, answer in self.answers] or [
            heard.message for heard in self.heard['telemetry']]
        if not told:
            return ''
        policies = list(dict.fromkeys(io.policy for io in told))
        return f'{told[0].model}, {" and ".join(policies)}'

    @property
    def complaint(self) -> str:
        """The worst the node said of itself while frames came, of them first; else empty."""
        last = max((time for _, time, _ in self.played), default=0)
        said = [status for heard in self.heard['diagnostics'] if heard.time <= last
                for status in heard.message.status if status.level > b'\x00']
        worst = max(said, default=None, key=lambda status: (
            ': frames' in status.name, ': model' in status.name, status.level))
        return f'{worst.name}: {worst.message}' if worst else ''

    @property
    def name(self) -> str:
        """The bag's name."""
        return Path(self.options.bag).resolve().name


def stamp_of(header) -> int:
    """Return a header's stamp [ns]."""
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def _point(at: float, seconds: float, io) -> Point:
    megabytes = io.bytes_read / 1e6
    rate = megabytes / io.read_seconds if io.read_seconds > 0 else 0.0
    return Point(at, seconds, megabytes, rate, io.importance_kept)
