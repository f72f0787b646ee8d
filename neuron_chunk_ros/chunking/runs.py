# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of rows: int64 arrays [n, 2] of (first row, rows), ascending, disjoint, not touching."""

from collections.abc import Sequence

import numpy as np


def whole(rows: int) -> np.ndarray:
    """Return the one run that holds every row."""
    return np.array([[0, rows]], np.int64)


def between(first: int, end: int) -> np.ndarray:
    """Return the one run of the rows from `first` up to `end`, or none."""
    return np.array([[first, end - first]] if end > first else np.empty((0, 2)), np.int64)


def count(runs: np.ndarray) -> int:
    """Return how many rows the runs hold."""
    return int(runs[:, 1].sum())


def union(choices: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Return the runs of all rows that any of the choices holds."""
    if len(choices) == 1:
        return choices[0]
    edges = np.zeros(rows + 1, np.int32)
    for runs in choices:
        edges[runs[:, 0]] += 1            # within a choice no two runs start or end together
        edges[runs.sum(axis=1)] -= 1
    chosen = np.concatenate([[0], np.cumsum(edges) > 0, [0]])
    steps = np.flatnonzero(np.diff(chosen))
    return np.stack([steps[::2], steps[1::2] - steps[::2]], axis=1).astype(np.int64)


def part(runs: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Return the runs of the rows that are number `begin` to `end` - 1 among those of `runs`."""
    ends = np.cumsum(runs[:, 1])
    first = int(np.searchsorted(ends, begin, side='right'))
    last = int(np.searchsorted(ends, end))
    found = runs[first:last + 1].copy()
    if len(found):
        found[-1, 1] -= max(0, int(ends[min(last, len(ends) - 1)]) - end)
        cut = begin - int(ends[first] - runs[first, 1])
        found[0] += np.array([cut, -cut], np.int64)
    return found


def difference(runs: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the runs of the rows that `runs` holds and `others` does not."""
    if not len(runs) or not len(others):
        return runs
    if len(others) == 1 and others[0].sum() <= runs[0, 0]:
        return runs
    ends = [int(r[-1].sum()) for r in (runs, others)]
    edges = np.zeros(max(ends) + 1, np.int32)
    for found, sign in ((runs, 1), (others, -2)):  # 1 where only the first holds a row
        edges[found[:, 0]] += sign
        edges[found.sum(axis=1)] -= sign
    held = np.concatenate([[0], np.cumsum(edges) == 1, [0]])
    steps = np.flatnonzero(np.diff(held))
    return np.stack([steps[::2], steps[1::2] - steps[::2]], axis=1).astype(np.int64)


def behind(runs: np.ndarray, first: int) -> np.ndarray:
    """Return the runs of the rows from `first` on."""
    if not len(runs) or runs[0, 0] >= first:
        return runs
    found = runs[runs.sum(axis=1) > first]
    if len(found) and found[0, 0] < first:
        found[0] = first, found[0].sum() - first
    return found


def common(runs: np.ndarray, others: np.ndarray) -> int:
    """Return how many rows both hold."""
    if len(others) == 1:
        first, end = others[0, 0], others[0].sum()
        return int(np.clip(np.minimum(runs.sum(axis=1), end) - np.maximum(runs[:, 0], first), 0,
                           None).sum())
    return count(others) - count(difference(others, runs))


def without(importance: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Return a copy in which the rows that the runs hold have no importance."""
    rest = importance.copy()
    if len(runs) == 1:
        rest[runs[0, 0]:runs[0].sum()] = 0
    else:
        rest[indices(runs)] = 0
    return rest


def of(rows: np.ndarray) -> np.ndarray:
    """Return the runs of these row numbers, integers, ascending, each once."""
    rows = np.asarray(rows, np.int64)
    first = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    lengths = np.diff(first, append=len(rows))
    return np.stack([rows[first], lengths], axis=1)


def indices(runs: np.ndarray) -> np.ndarray:
    """Return the row numbers the runs hold, int64, ascending."""
    ends = np.cumsum(runs[:, 1])
    offsets = np.repeat(runs[:, 0] - ends + runs[:, 1], runs[:, 1])
    return offsets + np.arange(len(offsets))


def share(importance: np.ndarray, runs: np.ndarray) -> float:
    """Return the part of the summed importance, float32 [rows], that the runs hold; 1 of 0."""
    sums = np.concatenate([[0.0], np.cumsum(importance, dtype=np.float64)])
    if not sums[-1] > 0:
        return 1.0
    return float((sums[runs.sum(axis=1)] - sums[runs[:, 0]]).sum() / sums[-1])


def contiguity(runs: np.ndarray, bins: int = 24) -> np.ndarray:
    """Histogram of run lengths: entry k counts the runs of 2^k to 2^(k+1) - 1 rows.

    The contiguity distribution of Neuron Chunking (section 3), in powers of two.
    """
    return np.bincount(np.log2(runs[:, 1]).astype(np.int64), minlength=bins)[:bins]


def pieces(runs: np.ndarray, row_bytes: int, limit: int, slack: int,
           multiple: int = 1) -> list[np.ndarray]:
    """Cut runs, in order, into pieces that each fit a buffer.

    :param limit: bytes a piece may need, `slack` bytes for every run counted in.
    :param multiple: a run too long for one piece is cut at multiples of so many rows, if that
        many fit at all.
    :raises ValueError: where not even one row fits.
    """
    most = (limit - slack) // row_bytes
    if most < 1:
        raise ValueError(f'a row of {row_bytes} bytes does not fit a buffer of {limit}')
    if most > multiple:
        most -= most % multiple
    # Runs longer than a piece are cut first; then whole runs are packed in order.
    parts = -(-runs[:, 1] // most)
    ends = np.cumsum(parts)
    number = np.arange(parts.sum()) - np.repeat(ends - parts, parts)
    first = np.repeat(runs[:, 0], parts) + number * most
    length = np.minimum(np.repeat(runs.sum(axis=1), parts) - first, most)
    cost = np.cumsum(length * row_bytes + slack)
    cut, start, paid = [], 0, 0
    while start < len(first):
        end = int(np.searchsorted(cost, paid + limit, side='right'))
        cut.append(np.stack([first[start:end], length[start:end]], axis=1))
        start, paid = end, cost[end - 1]
    return cut
