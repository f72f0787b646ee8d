# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Several tokens for one reading of the weights: drafts, verified together by one exact step.

Speculative decoding (Leviathan et al. 2023), greedy: what the step itself finds likeliest decides,
token by token, so the text is that of one token at a time.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from typing import Protocol

_MOST = 6         # drafts in one step
_MOST_OWN = 7     # of the model's own; with the token before them a step of few tokens
_NGRAM = 3        # tokens that have to be found again, at most
_LEAST_SURE = 2   # at least: one alone says little
_NEWEST = 8       # steps that a median is taken of
_AGAIN = 24       # tokens after which drafting is tried again where it did not pay


class Drafter(Protocol):
    """Guesses how a text goes on."""

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return up to `most` tokens that may follow; none where it has no idea."""


class PromptLookup:
    """What followed the last time these tokens stood in the prompt or the answer so far."""

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """See Drafter."""
        tokens = list(tokens)
        for length in range(min(_NGRAM, len(tokens) - 1), _LEAST_SURE - 1, -1):
            wanted = tokens[-length:]
            for start in range(len(tokens) - length - 1, -1, -1):
                if tokens[start:start + length] == wanted:
                    return tokens[start + length:start + length + most]
        return []


class _Paying:
    """Knows what steps with and without drafts took, and rests where drafts don't pay."""

    def __init__(self, least: int):
        """`least`: steps with drafts before they are judged."""
        self._least = least
        self._single: deque[float] = deque(maxlen=_NEWEST)
        self._drafted: deque[tuple[float, int]] = deque(maxlen=_NEWEST)
        self._off = 0

    def rests(self) -> bool:
        """Whether to draft nothing for the next step; asked once for each."""
        rests = self._off > 0
        self._off -= rests
        return rests

    def seconds(self) -> float | None:
        """Return the seconds a token takes with drafts; None where that isn't known yet."""
        if len(self._drafted) < self._least:
            return None
        return sum(s for s, _ in self._drafted) / sum(n for _, n in self._drafted)

    def observe(self, seconds: float, drafted: int, accepted: int) -> None:
        """Note what a step took, its drafts included, and how many of them were right."""
        if not drafted:
            self._single.append(seconds)
            return
        self._drafted.append((seconds, 1 + accepted))
        each = self.seconds()
        if self._single and each is not None and each > statistics.median(self._single):
            self._drafted.clear()
            self._off = _AGAIN


class Drafting(_Paying):
    """Decides how much to draft: as long as it pays in seconds a token."""

    def __init__(self, drafter: Drafter):
        super().__init__(least=2)
        self._drafter = drafter

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return the drafts to verify in the next step; none where they don't pay."""
        if self.rests() or most < 1:
            return []
        return self._drafter.propose(tokens, min(most, _MOST))


class Speculation(_Paying):
    """Decides how much the model drafts with what is held of it (bases, heads) alone.

    A draft costs a pass that reads nothing. It is worth that as long as the chance that it and all
    before it are right saves more.
    """

    _NEWEST_WEIGHS = 0.1

    def __init__(self):
        super().__init__(least=3)
        self._drafts: deque[float] = deque(maxlen=4 * _NEWEST)
        self._right = 0.75  # the share of drafts that are right, of those behind right ones

    def most(self) -> int:
        """Return how many drafts to make at most; 0 where they don't pay."""
        return 0 if self.rests() else _MOST_OWN

    def worth(self, sure: float) -> bool:
        """Whether to draft once more, behind drafts that are all right with this probability."""
        each = self.seconds()
        if each is None or not self._drafts:
            return True
        return sure * self._right * each > statistics.median(self._drafts)

    def observe_draft(self, seconds: float) -> None:
        """Note what a draft took."""
        self._drafts.append(seconds)

    def observe(self, seconds: float, drafted: int, accepted: int) -> None:
        """See _Paying."""
        super().observe(seconds, drafted, accepted)
        if drafted:
            tried = min(drafted, accepted + 1)
            self._right += self._NEWEST_WEIGHS * (accepted / tried - self._right)
