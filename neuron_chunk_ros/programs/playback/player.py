# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Plays frames and questions at the bag's pace, and waits for the last answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from neuron_chunk_ros.programs.playback.clock import BagClock
from neuron_chunk_ros.programs.playback.link import Link
from neuron_chunk_ros.programs.playback.options import PlannedQuestion
from neuron_chunk_ros.programs.playback.recording import Frame

# How often to look whether the node lives and answers have come [s].
_GLANCE = 0.05
# A question may overtake the first frame on its way to the node: it is asked again this long [s].
_FIRST_FRAME = 3.0
# Silence after which the node is taken to be idle, at least [s].
_SILENCE = 1.0


@dataclass
class _Asked:
    question: PlannedQuestion
    future: object


class Player:
    """Runs the clock; `played` and `refused` tell afterwards what was done.

    :param origin: the bag's beginning [ns], from which questions count.
    :param standing: whether the node asks by itself at each frame.
    :param say: takes a line for each answer that isn't the last one to its question again.
    """

    def __init__(self, link: Link, clock: BagClock, alive: Callable[[], None], origin: int,
                 questions: tuple[PlannedQuestion, ...], standing: bool,
                 say: Callable[[str], None]):
        self._link = link
        self._clock = clock
        self._alive = alive
        self._origin = origin
        self._standing = standing
        self._say = say
        self._told = 0
        self._texts: dict[str, str] = {}
        self._due = sorted(questions, key=lambda question: question.at)
        self._asked: list[_Asked] = []
        self._began = 0.0
        self.played: list[tuple[str, int, int]] = []  # topic, bag time, stamp [ns]
        self.refused: list[tuple[PlannedQuestion, str]] = []
        self.behind = 0.0

    def play(self, frames: Iterator[Frame]) -> None:
        """Publish every frame when its time has come, and ask what is due in between."""
        for frame in frames:
            if not self.played:
                self._clock.start(frame.time)
                self._began = time.monotonic()
            self._wait(frame.time)
            self.behind = max(self.behind, -self._clock.until(frame.time))
            self._link.publish(frame)
            self.played.append((frame.topic, frame.time, frame.stamp))
        while self._due:
            self._wait(self._time(self._due[0]) + 1)

    def drain(self, longest: float) -> None:
        """Wait until nothing more comes: neither answers nor steps, for at most so long [s]."""
        limit = time.monotonic() + longest
        while time.monotonic() < limit:
            self._collect()
            answers = self._link.heard['answer']
            usual = max((heard.message.timing.total for heard in answers), default=0.0)
            silent = time.monotonic() - self._link.last_heard > max(_SILENCE, 2 * usual)
            unanswered = self._standing and not answers
            if silent and not self._asked and not unanswered:
                return
            self._alive()
            time.sleep(_GLANCE)
        self._collect()
        self.refused += [(asked.question, f'no answer within {longest:g} s of the last frame')
                         for asked in self._asked]

    def _time(self, question: PlannedQuestion) -> int:
        return self._origin + round(question.at * 1e9)

    def _wait(self, bag_time: int) -> None:
        """Sleep until this time, asking what becomes due before it."""
        while True:
            self._alive()
            self._collect()
            # The first frame goes ahead of questions that are due with it.
            while self.played and self._due and self._time(self._due[0]) < bag_time:
                if self._clock.until(self._time(self._due[0])) > 0:
                    break
                question = self._due.pop(0)
                self._asked.append(_Asked(question, self._link.ask(question.text)))
            left = self._clock.until(bag_time)
            if left <= 0:
                return
            if self.played and self._due:
                left = min(left, max(0.0, self._clock.until(self._time(self._due[0]))))
            time.sleep(min(left, _GLANCE) if left > 0 else 0)

    def _collect(self) -> None:
        """Tell of new answers, and take responses, of which only refusals matter."""
        answers = self._link.heard['answer']
        for heard in answers[self._told:]:
            self._told += 1
            answer = heard.message
            if self._texts.get(answer.prompt) != answer.text:
                self._texts[answer.prompt] = answer.text
                self._say(f'{(heard.time - self._origin) / 1e9:8.2f} s  {answer.prompt}  '
                          f'{answer.text}')
        for asked in list(self._asked):
            if not asked.future.done():
                continue
            response = asked.future.result()
            if not response.success and time.monotonic() - self._began < _FIRST_FRAME:
                asked.future = self._link.ask(asked.question.text)
                continue
            self._asked.remove(asked)
            if not response.success:
                self.refused.append((asked.question, response.message))
