# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Places in one piece of memory, taken and given back in the same order.

Small pieces take little of it, so that the more of them can be under way.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

_PAGE = 4096


class Event(Protocol):
    """What the memory may still be in use for, a copy to a GPU say."""

    def synchronize(self) -> None:
        """Wait until it is over."""


@dataclass
class _Place:
    begin: int
    end: int
    given_back: bool = False
    event: Event | None = None


class Ring:
    """Of `nbytes`. A third of it fits whenever no more than one place is taken."""

    def __init__(self, nbytes: int):
        self._nbytes = nbytes
        self._taken: deque[_Place] = deque()

    def take(self, nbytes: int) -> int | None:
        """Return where so many bytes are free, on a page boundary; None where they aren't."""
        nbytes = -(-nbytes // _PAGE) * _PAGE
        while (at := self._fits(nbytes)) is None and self._taken and self._taken[0].given_back:
            place = self._taken.popleft()
            if place.event is not None:
                place.event.synchronize()
        if at is not None:
            self._taken.append(_Place(at, at + nbytes))
        return at

    def give_back(self, event: Event | None = None) -> None:
        """Give back the oldest place; it is free once the event is over."""
        place = next(place for place in self._taken if not place.given_back)
        place.given_back, place.event = True, event
        while self._taken and self._taken[0].given_back and self._taken[0].event is None:
            self._taken.popleft()

    def clear(self) -> None:
        """Give back every place, and wait for what uses them."""
        for place in self._taken:
            if place.event is not None:
                place.event.synchronize()
        self._taken.clear()

    def _fits(self, nbytes: int) -> int | None:
        if not self._taken:
            return 0 if nbytes <= self._nbytes else None
        oldest, newest = self._taken[0], self._taken[-1]
        if newest.begin < oldest.begin:  # it has wrapped
            return newest.end if newest.end + nbytes <= oldest.begin else None
        if newest.end + nbytes <= self._nbytes:
            return newest.end
        return 0 if nbytes <= oldest.begin else None
