# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Reading ahead of a choice, while the drive has nothing to do; only what is missing is read then.

Two guesses. What the last step of its kind chose, for steps of many tokens: neighbouring frames
choose much alike, tokens don't. And the next rows behind the head: the hottest of the tail in
hot-cold order, in one long run whatever the order. What is there counts as kept when the rest is
chosen, so a wrong guess is not all in vain.
"""

from __future__ import annotations

import numpy as np

from neuron_chunk_ros.chunking import runs

_LEAST = 0.7  # of the rows read ahead has to have been wanted
_MOST_KINDS = 8
_AGAIN = 32   # steps after which it is tried again where it was not


class LastChoice:
    """Guesses what the last step of a kind chose, and stops where that is wrong."""

    def __init__(self):
        self._last: dict[tuple, dict[str, np.ndarray]] = {}
        self._rest: dict[tuple, int] = {}
        self.begin(None)

    def begin(self, kind: tuple | None) -> None:
        """Start a step of a kind; None: one that is not to be guessed for."""
        self._kind, self._new = kind, {}
        self._ahead = self._wanted = 0
        rest = self._rest.get(kind, 0)
        if rest:
            self._rest[kind] = rest - 1
        self._old = {} if rest or kind is None else self._last.get(kind, {})

    def guess(self, group: str) -> np.ndarray | None:
        """Return the runs that are likely to be chosen of a group; None for no idea."""
        return self._old.get(group)

    def note(self, group: str, chosen: np.ndarray, ahead: np.ndarray) -> None:
        """Note a group's choice, and what had been read ahead of it by a guess of ours."""
        self._new[group] = chosen
        self._ahead += runs.count(ahead)
        self._wanted += runs.common(chosen, ahead)

    def end(self) -> None:
        """Learn from a finished step."""
        if self._kind is None:
            return
        self._last.pop(self._kind, None)
        self._last[self._kind] = self._new
        if len(self._last) > _MOST_KINDS:
            del self._last[next(iter(self._last))]
        if self._wanted < _LEAST * self._ahead:
            self._rest[self._kind] = _AGAIN


class NextRows:
    """How much of each group's tail to read before it is known what is chosen of it.

    As much as the drive can deliver in the time it would stand still, and no more than it takes
    for computing not to wait: where nothing waits nothing is read that nobody asked for.
    """

    _FADES = 0.9   # of the last size, from step to step
    _GROWS = 0.5   # of what could have been read in the time waited for

    def __init__(self):
        self._bytes: dict[tuple, float] = {}  # by kind and group
        self._gaps: dict[tuple, float] = {}

    def nbytes(self, kind: tuple, group: str) -> int:
        """Return how much to read ahead."""
        return int(self._bytes.get((kind, group), 0.0))

    def note(self, kind: tuple, group: str, gap: float, waited: float, rate: float) -> None:
        """Learn from a group that is through.

        :param gap: seconds in which the drive had nothing to do but what was read ahead.
        :param waited: seconds that its reads were waited for.
        :param rate: what the drive delivers [bytes/s].
        """
        key = kind, group
        if len(self._bytes) > 4096 and key not in self._bytes:
            self._bytes.clear()
            self._gaps.clear()
        gap = self._gaps[key] = gap + 0.7 * (self._gaps.get(key, gap) - gap)
        wanted = self._FADES * self._bytes.get(key, 0.0) + self._GROWS * waited * rate
        self._bytes[key] = max(0.0, min(wanted, gap * rate))
