# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Selection policies: from importance and a budget to the runs that are read.

The selection itself is native code; here it meets a group's shape and the storage's profile.
Runs are int64 [n, 2] of (first row, rows), see runs.py.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache

import numpy as np

from neuron_chunk_ros import _native
from neuron_chunk_ros.chunking import runs
from neuron_chunk_ros.storage.profile import Line, Profile

# (chunk size, jump cap) in KiB per matrix shape (rows, columns): Neuron Chunking, Table 2, the
# Orin Nano's column.
TABLE_2_NANO = {
    (3584, 3584): (24, 36), (8960, 1536): (20, 20), (896, 4864): (8, 8), (4096, 1024): (12, 12),
    (3584, 18944): (8, 8), (4096, 4096): (24, 24), (18944, 3584): (36, 36),
    (1536, 1536): (16, 12), (1536, 256): (8, 8), (896, 128): (8, 8), (14336, 4096): (40, 36),
    (4864, 896): (20, 16), (3584, 512): (8, 12), (896, 896): (8, 8), (4096, 14336): (8, 8),
    (1536, 8960): (8, 8),
}
_MOST_CELL_BYTES = 32 << 10
_PAGE = 4096  # bytes of memory
# Estimates err by some five percent: a selection that promises to save less is not one.
_WORTHWHILE = 0.92
_SEARCH_STEPS = 12
_HAIR = 1 - 1e-9  # sums may have been added up in another order
# No window of greedy's is longer: the longest saturation size in the paper. A drive that gains its
# last percent with reads of a megabyte would have it try three times as many, to no avail.
_LONGEST_WINDOW_KIB = 348


def greedy_parameters(rows: int, row_bytes: int) -> tuple[int, int]:
    """Return (chunk size, jump cap) [KiB] for a matrix: the paper's, else about four rows."""
    known = TABLE_2_NANO.get((rows, row_bytes // 2))
    if known:
        return known
    size = int(np.clip(4 * row_bytes / 1024, 8, 36))
    return size, size


def cell_rows(row_bytes: int, block_size: int) -> int:
    """Return how many rows end on a page boundary together: runs of whole cells waste nothing.

    A run of whole pages is read without a byte that nobody wanted, and lies where it is wanted at
    once. Where that takes more than 32 KiB, blocks must do, and then single rows: a run then
    reads up to two blocks in vain.
    """
    for boundary in (max(block_size, _PAGE) if block_size > 1 else 1, block_size):
        together = math.lcm(row_bytes, boundary)
        if together <= _MOST_CELL_BYTES:
            return together // row_bytes
    return 1


class Policy(ABC):
    """Chooses rows of a group whose rows lie one behind the other from a block boundary on."""

    name: str
    falls_back = True  # to reading everything where the profile sees hardly anything to save

    def __init__(self, profile: Profile, block_size: int = 1):
        """`block_size`: bytes that reads are multiples of."""
        self.profile, self.block_size = profile, block_size
        self._whole: dict[tuple[int, int], float] = {}  # (rows, row bytes) -> seconds

    def __call__(self, importance: np.ndarray, rows: int, row_bytes: int) -> np.ndarray:
        """Choose under a budget of rows.

        :param importance: float32 [N], not negative.
        :param rows: how many may be chosen; at least the smallest run is, whatever the budget.
        :return: runs, at least one.
        """
        count = len(importance)
        if rows >= count:
            return runs.whole(count)
        chosen = self._choose(importance, max(1, rows), row_bytes)
        if not len(chosen):
            chosen = _native.select_topk(importance, max(1, rows))
        return self._or_whole(chosen, count, row_bytes)

    def within(self, importance: np.ndarray, seconds: float, row_bytes: int) -> np.ndarray:
        """Choose under a budget of reading time, by the profile; at least the smallest run."""
        count = len(importance)
        if self.whole_seconds(count, row_bytes) <= seconds:
            return runs.whole(count)
        best = _native.select_topk(importance, 1)
        low, high = 1, count
        for _ in range(_SEARCH_STEPS):
            if high - low <= 1:
                break
            middle = (low + high) // 2
            chosen = self._choose(importance, middle, row_bytes)
            if len(chosen) and self.seconds(chosen, row_bytes) <= seconds:
                best, low = chosen, middle
            else:
                high = middle
        return best

    @abstractmethod
    def keeping(self, importance: np.ndarray, kept: float, row_bytes: int) -> np.ndarray:
        """Choose little whose summed importance is at least `kept`; at least the smallest run."""

    def seconds(self, chosen: np.ndarray, row_bytes: int) -> float:
        """Return what reading these runs takes by the profile, in whole blocks."""
        if not len(chosen):
            return 0.0
        profile = self.profile
        return profile.batch_seconds + _native.reading_seconds(
            chosen, row_bytes, self.block_size, *profile.low, *profile.high, profile.knee_kib)

    def whole_seconds(self, count: int, row_bytes: int) -> float:
        """Return what reading all of a group takes by the profile."""
        found = self._whole.get((count, row_bytes))
        if found is None:
            found = self._whole[count, row_bytes] = self.seconds(runs.whole(count), row_bytes)
        return found

    @abstractmethod
    def _choose(self, importance: np.ndarray, rows: int, row_bytes: int) -> np.ndarray:
        """Choose at most so many of the rows; may be none."""

    def _or_whole(self, chosen: np.ndarray, count: int, row_bytes: int) -> np.ndarray:
        if self.falls_back and self.seconds(chosen, row_bytes) >= (
                _WORTHWHILE * self.whole_seconds(count, row_bytes)):
            return runs.whole(count)
        return chosen


class Dense(Policy):
    """Everything."""

    name = 'dense'

    def within(self, importance: np.ndarray, seconds: float, row_bytes: int) -> np.ndarray:
        """Choose everything, whatever it takes."""
        return runs.whole(len(importance))

    def keeping(self, importance: np.ndarray, kept: float, row_bytes: int) -> np.ndarray:
        """Choose everything, whatever is to be kept."""
        return runs.whole(len(importance))

    def _choose(self, importance: np.ndarray, rows: int, row_bytes: int) -> np.ndarray:
        return runs.whole(len(importance))


class TopK(Policy):
    """The most important rows one by one: the baseline of Neuron Chunking, section 5."""

    name = 'topk'
    falls_back = False

    def keeping(self, importance: np.ndarray, kept: float, row_bytes: int) -> np.ndarray:
        """Choose the fewest rows whose summed importance is at least `kept`."""
        chosen = _native.select_topk_keeping(importance, kept * _HAIR)
        return chosen if len(chosen) else _native.select_topk(importance, 1)

    def _choose(self, importance: np.ndarray, rows: int, row_bytes: int) -> np.ndarray:
        return _native.select_topk(importance, rows)


class Greedy(Policy):
    """Algorithm 1 of Neuron Chunking."""

    name = 'greedy'

    def keeping(self, importance: np.ndarray, kept: float, row_bytes: int) -> np.ndarray:
        """Walk Algorithm 1's chunks until they keep this sum of importance."""
        count, kept = len(importance), kept * _HAIR
        chosen = self._walk(importance, count, row_bytes, kept)
        if not len(chosen):
            chosen = _native.select_topk(importance, 1)
        total = float(importance.sum(dtype=np.float64))
        if runs.share(importance, chosen) * total < kept:
            return runs.whole(count)  # what is left lies in gaps narrower than any window
        return self._or_whole(chosen, count, row_bytes)

    def _choose(self, importance: np.ndarray, rows: int, row_bytes: int) -> np.ndarray:
        return self._walk(importance, rows, row_bytes, math.inf)

    def _walk(self, importance: np.ndarray, rows: int, row_bytes: int,
              kept: float) -> np.ndarray:
        size, jump = greedy_parameters(len(importance), row_bytes)
        # A longer run pays the saturated price per KiB anyhow. A window must hold at least one
        # row, though.
        largest = max(min(self.profile.saturation_kib, _LONGEST_WINDOW_KIB), size,
                      -(-row_bytes // 1024))
        return _native.select_greedy(importance, rows, row_bytes, _table(self.profile, largest),
                                     size, largest, size, jump, kept)


class Optimal(Policy):
    """Most importance for the time, by a program over the rows (see optimal_selection.hpp).

    Its runs are whole cells. It takes a run of n rows to cost a + b * n; where the profile's two
    lines differ, several such lines are tried and the selection that the profile finds cheapest
    for what it keeps is taken.
    """

    name = 'optimal'

    def __init__(self, profile: Profile, block_size: int = 1):
        """See Policy."""
        super().__init__(profile, block_size)
        self._lines = _lines(profile)
        # Where the last search for a group of this shape ended. It shortens the next one and
        # changes nothing else.
        self._prices: dict[tuple, int] = {}

    def within(self, importance: np.ndarray, seconds: float, row_bytes: int) -> np.ndarray:
        """Choose under a budget of reading time, by the profile; at least the smallest run."""
        count = len(importance)
        if self.whole_seconds(count, row_bytes) <= seconds:
            return runs.whole(count)
        best, most = None, -1.0
        for line in self._lines:
            budget = seconds - self.profile.batch_seconds
            for _ in range(4):  # the line is near the profile, not equal to it
                chosen = self._solve(importance, 'cost', budget, row_bytes, line)
                taken = self.seconds(chosen, row_bytes)
                if taken <= seconds or not len(chosen):
                    break
                budget *= 0.998 * seconds / taken
            if len(chosen) and taken <= seconds:
                kept = runs.share(importance, chosen) if len(self._lines) > 1 else 1.0
                if kept > most:
                    best, most = chosen, kept
        return _native.select_topk(importance, 1) if best is None else best

    def keeping(self, importance: np.ndarray, kept: float, row_bytes: int) -> np.ndarray:
        """Choose what is read fastest of all that keeps at least this sum of importance."""
        tried = [self._solve(importance, 'kept', kept, row_bytes, line) for line in self._lines]
        chosen = min(tried, key=lambda found: self.seconds(found, row_bytes))
        if not len(chosen):
            chosen = _native.select_topk(importance, 1)
        return self._or_whole(chosen, len(importance), row_bytes)

    def frontier(self, importance: np.ndarray, row_bytes: int) -> np.ndarray:
        """Return what the best selections keep for their time, float64 [17, 2], ascending.

        Columns: seconds by the profile, share of the summed importance kept.
        """
        line = self._lines[0]
        points = _native.frontier(importance, cell_rows(row_bytes, self.block_size),
                                  line.request_seconds, line.kib_seconds * row_bytes / 1024)
        points[:, 0] += self.profile.batch_seconds
        if points[-1, 1] > 0:
            points[:, 1] /= points[-1, 1]
        return points

    def _or_whole(self, chosen: np.ndarray, count: int, row_bytes: int) -> np.ndarray:
        # The program hardly ever takes what takes longer than all: a look at its own line is
        # enough, most of the time, to do without the profile's word.
        a, b = self._lines[0]
        b *= row_bytes / 1024
        if len(chosen) * a + runs.count(chosen) * b < 0.8 * (a + count * b):
            return chosen
        return super()._or_whole(chosen, count, row_bytes)

    def _choose(self, importance: np.ndarray, rows: int, row_bytes: int) -> np.ndarray:
        rows = max(rows, cell_rows(row_bytes, self.block_size))
        tried = [self._solve(importance, 'rows', rows, row_bytes, line) for line in self._lines]
        if len(tried) == 1:
            return tried[0]
        return max(tried, key=lambda found: runs.share(importance, found) / max(
            self.seconds(found, row_bytes), 1e-12))

    def _solve(self, importance, target: str, value: float, row_bytes: int,
               line: Line) -> np.ndarray:
        key = (len(importance), row_bytes, target, line)
        chosen, self._prices[key] = _native.select_optimal(
            importance, target, value, cell_rows(row_bytes, self.block_size),
            line.request_seconds, line.kib_seconds * row_bytes / 1024, self._prices.get(key, -1))
        return chosen


@lru_cache(maxsize=64)
def _table(profile: Profile, largest_kib: int) -> np.ndarray:
    return profile.table(largest_kib)


def _lines(profile: Profile) -> list[Line]:
    """Return the straight lines worth trying in place of the profile's two."""
    low, high = profile.low, profile.high
    if math.isclose(low.kib_seconds, high.kib_seconds, rel_tol=0.1):
        return [profile.line]
    # The one nearest to T over all sizes, and T itself as long as runs stay below the knee.
    return [line for line in (profile.line, low) if line.kib_seconds > 0]


_CLASSES = {policy.name: policy for policy in (Dense, TopK, Greedy, Optimal)}
POLICIES = tuple(_CLASSES)


def make_policy(name: str, profile: Profile, block_size: int = 1) -> Policy:
    """Return the policy of this name.

    :param block_size: bytes that the device's reads are multiples of (Reader.block_size).
    :raises ValueError: for a name not in POLICIES.
    """
    if name not in _CLASSES:
        raise ValueError(f"unknown policy '{name}': choose one of {', '.join(POLICIES)}")
    return _CLASSES[name](profile, block_size)
