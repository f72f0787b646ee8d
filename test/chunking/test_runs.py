# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of rows against plain sets of row numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_chunk_ros.chunking import runs


@st.composite
def chosen(draw, rows=200):
    """Draw the runs of a random set of rows, and the set."""
    mask = np.array(draw(st.lists(st.booleans(), min_size=1, max_size=rows)))
    return as_runs(mask), mask


def as_runs(mask):
    found, start = [], None
    for i, value in enumerate([*mask, False]):
        if value and start is None:
            start = i
        elif not value and start is not None:
            found.append((start, i - start))
            start = None
    return np.array(found, np.int64).reshape(-1, 2)


@given(chosen())
def test_indices_and_count(case):
    found, mask = case
    np.testing.assert_array_equal(runs.indices(found), np.flatnonzero(mask))
    assert runs.count(found) == mask.sum()


@given(st.lists(st.lists(st.booleans(), min_size=50, max_size=50), min_size=1, max_size=3))
def test_union(masks):
    masks = np.array(masks)
    want = as_runs(masks.any(axis=0))
    np.testing.assert_array_equal(runs.union([as_runs(m) for m in masks], 50), want)


@given(chosen())
def test_contiguity_counts_every_run_once(case):
    found, _ = case
    histogram = runs.contiguity(found)
    assert histogram.sum() == len(found)
    for k, number in enumerate(histogram):
        assert number == ((found[:, 1] >= 2 ** k) & (found[:, 1] < 2 ** (k + 1))).sum()


@given(chosen(), st.integers(1, 400), st.integers(0, 64), st.integers(0, 3000),
       st.sampled_from([1, 4]))
def test_pieces_fit_and_lose_nothing(case, row_bytes, slack, spare, multiple):
    found, _ = case
    limit = row_bytes + slack + spare
    cut = runs.pieces(found, row_bytes, limit, slack, multiple)
    rebuilt = [runs.indices(piece) for piece in cut]
    np.testing.assert_array_equal(np.concatenate([np.empty(0, np.int64), *rebuilt]),
                                  runs.indices(found))
    for piece in cut:
        assert len(piece) and (piece[:, 1] > 0).all()
        assert (piece[:, 1] * row_bytes + slack).sum() <= limit


def test_a_row_larger_than_the_buffer_is_refused():
    with pytest.raises(ValueError, match='does not fit'):
        runs.pieces(runs.whole(3), 100, 120, 30)


@given(st.lists(st.lists(st.booleans(), min_size=50, max_size=50), min_size=2, max_size=2))
def test_difference(masks):
    one, other = np.array(masks)
    found = runs.difference(as_runs(one), as_runs(other))
    np.testing.assert_array_equal(found, as_runs(one & ~other))


@given(chosen(), st.integers(0, 220), st.integers(0, 220))
def test_part(case, begin, end):
    found, mask = case
    rows = np.flatnonzero(mask)
    begin, end = sorted((min(begin, len(rows)), min(end, len(rows))))
    np.testing.assert_array_equal(runs.indices(runs.part(found, begin, end)), rows[begin:end])


@given(st.lists(st.lists(st.booleans(), min_size=50, max_size=50), min_size=2, max_size=2),
       st.integers(0, 50))
def test_common_behind_and_without(masks, first):
    one, other = (np.array(mask) for mask in masks)
    assert runs.common(as_runs(one), as_runs(other)) == (one & other).sum()
    np.testing.assert_array_equal(runs.behind(as_runs(one), first),
                                  as_runs(one & (np.arange(50) >= first)))
    importance = np.arange(1, 51, dtype=np.float32)
    np.testing.assert_array_equal(runs.without(importance, as_runs(one)),
                                  np.where(one, 0, importance))
    assert importance.min() == 1  # not in place
