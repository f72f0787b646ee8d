# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the monitor knows of one node: fed with its messages and the time they came at.

Times called `at` and `now` are seconds of a clock that never goes back; `wall` is the time of day,
as seconds since 1970. Needs no ROS: any object with a message's fields will do.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from neuron_chunk_ros.programs.monitor.texts import clean

MB, GB = 1e6, 1e9
OK, WARN, ERROR, STALE = range(4)
LEVELS = ('OK', 'WARN', 'ERROR', 'STALE')
# Rates are means over this many whole seconds.
RECENT_SECONDS = 5
HISTORY_SECONDS = 300
_RECENT_STEPS, _RECENT_LATENCIES, _ANSWERS = 50, 100, 200
# The node is silent when nothing came for so many periods of its diagnostics, or so long [s].
_PERIODS, _SHORTEST_PATIENCE, _LONGEST_PERIOD = 3.0, 2.0, 20.0
# A part that the node names no more, such as one of a state it has left, is forgotten [s].
_FORGET = 5.0


class History:
    """Amounts summed by whole seconds."""

    def __init__(self):
        self._sums: dict[int, float] = {}

    def add(self, at: float, duration: float, amount: float):
        """Spread an amount evenly over the `duration` [s] that ended `at`."""
        start = at - min(duration, HISTORY_SECONDS - 1.0)
        last = math.floor(at)
        for second in range(math.floor(start), last + 1):
            share = 1.0
            if start < at:
                share = max(0.0, min(at, second + 1) - max(start, second)) / (at - start)
            self._sums[second] = self._sums.get(second, 0.0) + amount * share
        if len(self._sums) > 2 * HISTORY_SECONDS:
            self._sums = {second: amount for second, amount in self._sums.items()
                          if second > last - HISTORY_SECONDS}

    def latest(self, now: float, count: int) -> list[float]:
        """Return the sums of the last `count` seconds that are over, oldest first."""
        end = math.floor(now)
        return [self._sums.get(second, 0.0) for second in range(end - count, end)]

    def rate(self, now: float) -> float:
        """Return the mean per second over RECENT_SECONDS."""
        return sum(self.latest(now, RECENT_SECONDS)) / RECENT_SECONDS


@dataclass(frozen=True)
class Answered:
    """One answer; None where the node told no number."""

    wall: float
    prompt: str
    text: str
    cameras: tuple[str, ...]
    standing: bool
    finish_reason: str
    confidence: float | None
    seconds: float | None
    coarse: bool = False

    @property
    def remark(self) -> str:
        """How it ended where not as it should, and whether on coarse weights; '' for neither."""
        ended = '' if self.finish_reason == 'stop' else self.finish_reason
        return ', '.join(filter(None, (ended, 'coarse' if self.coarse else '')))


@dataclass(frozen=True)
class Part:
    """What diagnostics said last of one part of the node."""

    name: str
    level: int
    message: str
    values: dict[str, str]
    at: float


@dataclass(frozen=True)
class LevelChange:
    """A part's level is another now; `before` is None when it is heard of for the first time."""

    wall: float
    part: Part
    before: int | None


@dataclass(frozen=True)
class _Step:
    kind: str
    seconds: float
    wait: float
    read: float
    bytes_read: int
    selected: int
    total: int
    importance: float | None
    attention: float | None


class Known:
    """Everything known of the node `name` ('/robot1/vlm'), listened to since `now`."""

    def __init__(self, name: str, now: float):
        self.name = name
        self.since = now
        self.last_word: float | None = None
        # False: nobody offers the node's answers; None: not looked for.
        self.offered: bool | None = None
        self.model = self.policy = ''
        self.parts: dict[str, Part] = {}
        self.answers: deque[Answered] = deque(maxlen=_ANSWERS)  # newest first
        self.read = History()  # bytes
        self.steps = History()
        # Counts what a person wants to see at once: answers, and news from the diagnostics.
        self.news = 0
        self._prefix = name.lstrip('/') + ': '
        self._recent: deque[_Step] = deque(maxlen=_RECENT_STEPS)
        self._latencies: deque[float] = deque(maxlen=_RECENT_LATENCIES)
        self._diagnosed_at: float | None = None
        self._period = 1.0

    def answered(self, message, at: float, wall: float) -> Answered:
        """Take in an Answer."""
        self.last_word = at
        self.news += 1
        self.model, self.policy = clean(message.model), clean(message.io.policy)
        latency = _number(message.timing.total)
        if latency is not None:
            self._latencies.append(latency)
        answer = Answered(
            wall, clean(message.prompt), clean(message.text), _cameras(message.cameras),
            bool(message.standing), clean(message.finish_reason), _number(message.confidence),
            latency, bool(message.coarse))
        self.answers.appendleft(answer)
        return answer

    def stepped(self, message, at: float):
        """Take in an IoTelemetry of one step; one that sums up an answer is passed over."""
        self.last_word = at
        self.model, self.policy = clean(message.model), clean(message.policy)
        if message.step == 'answer':
            return
        duration = _number(message.seconds) or 0.0
        self._recent.append(_Step(
            clean(message.step), duration, _number(message.wait_seconds) or 0.0,
            _number(message.read_seconds) or 0.0, message.bytes_read, message.rows_selected,
            message.rows_total, _number(message.importance_kept),
            _number(message.attention_density)))
        self.read.add(at, duration, message.bytes_read)
        self.steps.add(at, 0.0, 1.0)

    def diagnosed(self, message, at: float, wall: float) -> list[LevelChange]:
        """Take in a DiagnosticArray, which may be about anything on the robot."""
        statuses = [s for s in message.status if s.name.startswith(self._prefix)]
        if not statuses:
            return []
        if self._diagnosed_at is not None:
            self._period = min(at - self._diagnosed_at, _LONGEST_PERIOD)
        self._diagnosed_at = self.last_word = at
        before, changes = self.parts, []
        self.parts = {}
        for status in statuses:
            name = clean(status.name[len(self._prefix):])
            part = Part(name, _level(status.level), clean(status.message),
                        {clean(v.key): clean(v.value) for v in status.values}, at)
            self.parts[name] = part
            old = before.get(name)
            if old is None or old.level != part.level:
                changes.append(LevelChange(wall, part, None if old is None else old.level))
            if old is None or (old.level, old.message) != (part.level, part.message):
                self.news += 1
        for name, old in before.items():
            if name not in self.parts and at - old.at < _FORGET:
                self.parts[name] = old
        return changes

    def value(self, key: str) -> str | None:
        """Return the value some part tells under this key."""
        return next((p.values[key] for p in self.parts.values() if key in p.values), None)

    def worst(self) -> int | None:
        """Return the level of the part that needs looking at most; None before diagnostics."""
        return max((p.level for p in self.parts.values()), default=None, key=severity)

    def silence(self, now: float) -> float | None:
        """Return how long nothing was heard [s], where that is too long for a living node."""
        quiet = now - (self.since if self.last_word is None else self.last_word)
        return quiet if quiet > max(_SHORTEST_PATIENCE, _PERIODS * self._period) else None

    @property
    def heard_steps(self) -> bool:
        """Whether any step was heard of."""
        return bool(self._recent)

    def read_speed(self) -> float | None:
        """Return bytes per second of the recent steps while reads were in flight."""
        duration = sum(step.read for step in self._recent)
        return sum(step.bytes_read for step in self._recent) / duration if duration > 0 else None

    def rows_kept(self) -> float | None:
        """Return the share of rows selected in the recent steps."""
        total = sum(step.total for step in self._recent)
        return sum(step.selected for step in self._recent) / total if total else None

    def importance_kept(self) -> float | None:
        """Return the mean share of importance kept by the recent steps."""
        return _mean(s.importance for s in self._recent if s.importance is not None)

    def attention_kept(self) -> float | None:
        """Return the share of causal attention computed in recent steps that left some out."""
        return _mean(s.attention for s in self._recent
                     if s.attention is not None and 0 < s.attention < 1)

    def step_seconds(self) -> dict[str, float]:
        """Return the mean duration [s] of the recent steps by kind, in the order of an answer."""
        kinds = dict.fromkeys(('prefill', 'append', 'decode', *(s.kind for s in self._recent)))
        means = {k: _mean(s.seconds for s in self._recent if s.kind == k) for k in kinds}
        return {kind: mean for kind, mean in means.items() if mean is not None}

    def waiting_share(self) -> float | None:
        """Return the share of the recent steps' time in which compute waited for reads."""
        duration = sum(step.seconds for step in self._recent)
        return sum(step.wait for step in self._recent) / duration if duration > 0 else None

    def latencies(self) -> tuple[float, float, float, int] | None:
        """Return last, median and 95th percentile [s] of recent answers, and how many they are."""
        if not self._latencies:
            return None
        ordered = sorted(self._latencies)
        return (self._latencies[-1], _nearest_rank(ordered, 50), _nearest_rank(ordered, 95),
                len(ordered))


def severity(level: int) -> int:
    """Return a number that grows with how bad a level is: OK, WARN, STALE, ERROR."""
    return (OK, WARN, STALE, ERROR).index(level)


def _cameras(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(clean(name) for name in names if name))


def _level(level) -> int:
    number = level[0] if isinstance(level, (bytes, bytearray)) else int(level)
    return number if number < len(LEVELS) else ERROR


def _number(value: float) -> float | None:
    value = float(value)
    return value if math.isfinite(value) and value >= 0 else None


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def _nearest_rank(ordered: list[float], percentile: int) -> float:
    return ordered[math.ceil(percentile * len(ordered) / 100) - 1]
