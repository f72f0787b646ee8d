# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The native selection against numpy and against Algorithm 1 written out in plain Python."""

import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros import _native
from neuron_chunk_ros._native import reading_seconds, select_greedy, select_topk


def to_intervals(rows):
    """Ascending, merged (first, rows) of a collection of row numbers."""
    found = []
    for row in sorted(rows):
        if found and found[-1][0] + found[-1][1] == row:
            found[-1][1] += 1
        else:
            found.append([row, 1])
    return found


def plain_seconds(latency, kib):
    if kib <= 1:
        return latency[0]
    if kib >= len(latency):
        return latency[-1] * (kib / len(latency))
    below = int(kib)
    return latency[below - 1] + (latency[below] - latency[below - 1]) * (kib - below)


def plain_greedy(importance, rows, row_bytes, latency, min_kib, max_kib, step_kib, jump_kib):
    """Algorithm 1 of arXiv 2511.18692, line by line."""
    n = len(importance)
    rows = max(0, min(rows, n))
    least, most, step, jump = (
        max(1, math.floor(kib * 1024 / row_bytes))
        for kib in (min_kib, max_kib, step_kib, jump_kib))
    sums = [0.0]
    for value in importance:
        sums.append(sums[-1] + (0.0 if math.isnan(value) else float(value)))
    windows = []
    for r in range(least, most + 1, step):
        cost = plain_seconds(latency, r * row_bytes / 1024)
        for first in range(0, n - r + 1, min(r, jump)):
            windows.append(((sums[first + r] - sums[first]) / cost, first, r))
    windows.sort(key=lambda window: -window[0])
    chosen = set()
    for _, first, r in windows:
        if len(chosen) == rows:
            break
        if r > rows - len(chosen) or any(row in chosen for row in range(first, first + r)):
            continue
        chosen.update(range(first, first + r))
    return to_intervals(chosen)


def plain_topk(importance, rows):
    key = np.where(np.isnan(importance), -np.inf, importance)
    order = np.argsort(-key, kind='stable')
    return to_intervals(order[:max(0, rows)].tolist())


def table(rng, length):
    """A latency table as devices have them: a fixed cost, a slope, some noise."""
    a, b = rng.uniform(1e-6, 3e-4), rng.uniform(1e-8, 1e-6)
    return a + b * np.arange(1, length + 1) * rng.uniform(0.8, 1.2, length)


def importance(rng, n):
    """Smooth, heavy-tailed, coarse (many ties), constant or partly zero or NaN."""
    kind = rng.integers(6)
    values = rng.lognormal(0, 1, n)
    if kind == 1:
        values = rng.integers(0, 4, n)
    elif kind == 2:
        values = np.full(n, 0.5)
    elif kind == 3:
        values[rng.random(n) < 0.5] = 0
    elif kind == 4:
        values[rng.random(n) < 0.1] = np.nan
    elif kind == 5:
        values = np.sort(values)[::-1]
    return values.astype(np.float32)


@pytest.mark.parametrize('seed', range(30))
def test_greedy_is_algorithm_1(seed):
    rng = np.random.default_rng(seed)
    for _ in range(50):
        n = int(rng.integers(1, 300))
        values = importance(rng, n)
        row_bytes = int(rng.choice([256, 700, 1024, 1792, 3000, 8192]))
        latency = table(rng, int(rng.integers(1, 300)))
        least = float(rng.uniform(0.5, 20))
        most = least + float(rng.uniform(0, 200))
        step, jump = float(rng.uniform(0.5, 30)), float(rng.uniform(0.5, 30))
        rows = int(rng.integers(-1, n + 3))
        got = select_greedy(values, rows, row_bytes, latency, least, most, step, jump)
        want = plain_greedy(values, rows, row_bytes, latency, least, most, step, jump)
        assert got.dtype == np.int64 and got.shape == (len(want), 2)
        assert got.tolist() == want


def test_greedy_is_algorithm_1_where_it_sorts_in_rounds():
    """Enough windows that they are sorted a part at a time."""
    rng = np.random.default_rng(99)
    for _ in range(3):
        values = importance(rng, 4864)
        latency = table(rng, 348)
        arguments = (values, int(rng.integers(500, 4000)), 1792, latency, 8, 348, 8, 8)
        assert select_greedy(*arguments).tolist() == plain_greedy(*arguments)


@pytest.mark.parametrize('seed', range(10))
def test_topk_is_numpys(seed):
    rng = np.random.default_rng(seed)
    for _ in range(100):
        n = int(rng.integers(1, 500))
        values = importance(rng, n)
        rows = int(rng.integers(-2, n + 3))
        assert select_topk(values, rows).tolist() == plain_topk(values, rows)


floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=200, deadline=None)
@given(st.lists(floats, min_size=1, max_size=80), st.integers(-3, 90))
def test_topk_takes_any_floats(values, rows):
    values = np.array(values, np.float32)
    assert select_topk(values, rows).tolist() == plain_topk(values, rows)


@settings(max_examples=200, deadline=None)
@given(st.lists(floats, min_size=1, max_size=150), st.integers(-3, 170), st.integers(1, 5000))
def test_greedy_keeps_its_promises_on_any_floats(values, rows, row_bytes):
    values = np.array(values, np.float32)
    got = select_greedy(values, rows, row_bytes, np.linspace(1e-5, 1e-4, 40), 2, 30, 2, 2)
    assert got[:, 1].sum() <= max(0, min(rows, len(values)))
    assert (got[:, 1] > 0).all() and (got[:, 0] >= 0).all()
    ends = got.sum(axis=1)
    assert (got[1:, 0] > ends[:-1]).all()
    assert not len(ends) or ends[-1] <= len(values)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=120), st.floats(0, 1.1))
def test_topk_keeping_takes_the_fewest(values, part):
    values = np.array(values, np.float32)
    order = np.sort(values.astype(np.float64))[::-1]
    kept = part * order.sum()
    fewest = int(np.searchsorted(np.cumsum(order), kept)) + 1 if kept > 0 else 0
    chosen = _native.select_topk_keeping(values, kept)
    assert chosen.tolist() == _native.select_topk(values, min(fewest, len(values))).tolist()


@pytest.mark.parametrize('seed', range(10))
def test_greedy_keeping_is_the_same_walk_cut_short(seed):
    rng = np.random.default_rng(seed)
    values, latency = np.nan_to_num(importance(rng, 700)), table(rng, 64)
    arguments = 2048, latency, 8, 64, 8, 8

    def kept(found):
        return sum(values[a:a + n].sum(dtype=np.float64) for a, n in found)

    total = values.sum(dtype=np.float64)
    for part in (0.0, 0.1, 0.5, 0.9):
        some = _native.select_greedy(values, 700, *arguments, kept=part * total)
        more = _native.select_greedy(values, 700, *arguments)  # gaps too narrow for a window stay
        assert kept(some) >= min(part * total, kept(more)) * (1 - 1e-9)
        assert kept(some) < part * total + 64 * 1024 / 2048 * values.max() or not part
        assert set(rows_of(some)) <= set(rows_of(more))
    assert _native.select_greedy(values, 700, *arguments, kept=np.inf).tolist() == more.tolist()
    with pytest.raises(ValueError, match='not a number'):
        _native.select_greedy(values, 700, *arguments, kept=np.nan)


def rows_of(found):
    return [row for first, count in found.tolist() for row in range(first, first + count)]


def test_nothing_to_choose_from():
    empty = np.empty(0, np.float32)
    assert select_topk(empty, 5).shape == (0, 2)
    assert select_greedy(empty, 5, 1024, [1e-5], 1, 1, 1, 1).shape == (0, 2)


def test_topk_ties_go_to_the_lower_index():
    assert select_topk(np.array([1, 2, 2, 1, 2], np.float32), 2).tolist() == [[1, 2]]


def test_a_window_above_the_budget_leaves_it_unfilled():
    """A known limit of the algorithm: rows that no window fits into stay unused."""
    got = select_greedy(np.ones(64, np.float32), 10, 1024, np.full(8, 1e-5), 4, 4, 4, 4)
    assert got[:, 1].sum() == 8


@pytest.mark.parametrize('change', [
    {'row_bytes': 0}, {'latency': []}, {'latency': [0.0]}, {'latency': [float('nan')]},
    {'min_kib': 0}, {'step_kib': -1}, {'jump_kib': float('inf')}, {'min_kib': 9, 'max_kib': 8},
    {'importance': np.ones((2, 2), np.float32)},
])
def test_bad_arguments(change):
    arguments = {
        'importance': np.ones(8, np.float32), 'rows': 4, 'row_bytes': 512, 'latency': [1e-5],
        'min_kib': 1, 'max_kib': 2, 'step_kib': 1, 'jump_kib': 1} | change
    with pytest.raises(ValueError):
        select_greedy(**arguments)


def test_from_several_threads():
    """The scratch memory is each thread's own."""
    rng = np.random.default_rng(5)
    cases = [importance(rng, 2000) for _ in range(4)]
    latency = table(rng, 200)
    want = [select_greedy(v, 700, 1792, latency, 8, 200, 8, 8).tolist() for v in cases]
    wrong = []

    def work(values, expected):
        for _ in range(30):
            if select_greedy(values, 700, 1792, latency, 8, 200, 8, 8).tolist() != expected:
                wrong.append(1)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(cases, want, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize('sizes', [(1, 1e300, 1, 1), (1e300, 1e300, 1e300, 1e300),
                                   (1, 2e15, 2e15, 2e15)])
def test_huge_sizes_end(sizes):
    values = np.random.default_rng(1).random(2000, np.float32)
    got = select_greedy(values, 700, 4096, np.linspace(1e-5, 1e-4, 40), *sizes)
    assert got[:, 1].sum() <= 700


def test_too_many_windows_are_refused():
    with pytest.raises(ValueError, match='2\\^24 windows'):
        select_greedy(np.ones(100_000, np.float32), 90_000, 1024, [1e-5], 1, 90_000, 1, 1)


LINES = (1e-4, 1e-6, 2e-4, 5e-7, 100.0)


def plain_reading_seconds(runs, row_bytes, block):
    """Charge the requests that the reader makes: runs that share or touch a block are one."""
    found = []
    for first, count in runs:
        begin, end = first * row_bytes // block, -(-(first + count) * row_bytes // block)
        if found and first * row_bytes // block <= found[-1][1]:
            found[-1][1] = end
        else:
            found.append([begin, end])
    low, low_kib, high, high_kib, knee = LINES
    sizes = [(end - begin) * block / 1024 for begin, end in found]
    return sum(low + low_kib * kib if kib <= knee else high + high_kib * kib for kib in sizes)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=20),
       st.integers(1, 9000), st.sampled_from([1, 512, 4096]))
def test_runs_in_neighbouring_blocks_are_one_request(gaps, row_bytes, block):
    first, runs = 0, []
    for gap, rows in gaps:
        runs.append((first + gap, rows))
        first += gap + rows
    got = reading_seconds(np.array(runs, np.int64), row_bytes, block, *LINES)
    assert got == pytest.approx(plain_reading_seconds(runs, row_bytes, block))


@pytest.mark.parametrize('run', [(2 ** 62, 1), (1, 2 ** 62), (2 ** 63 - 1, 2 ** 63 - 1), (-1, 2),
                                 (0, -3)])
def test_bytes_beyond_counting_are_refused(run):
    with pytest.raises(ValueError, match='count'):
        reading_seconds(np.array([run], np.int64), 4096, 4096, *LINES)


def test_arrays_of_any_kind_are_taken():
    """Wherever their numbers lie: those that may not be read in place are copied."""
    values = np.random.default_rng(3).random(301).astype(np.float32)
    want = _native.select_topk(values, 77).tolist()
    unaligned = np.empty(values.nbytes + 1, np.uint8)[1:].view(np.float32)
    unaligned[:] = values
    for other in (unaligned, values.astype('>f4'), values.astype(np.float64), values.tolist(),
                  np.repeat(values, 2)[::2], values[::-1].copy()[::-1]):
        assert _native.select_topk(other, 77).tolist() == want
    runs = np.empty(33, np.uint8)[1:].view(np.int64).reshape(2, 2)
    runs[:] = [[0, 3], [9, 4]]
    assert _native.reading_seconds(runs, 512, 512, *LINES) == _native.reading_seconds(
        runs.copy(), 512, 512, *LINES)


def test_scratch_memory_of_a_large_call_is_given_back():
    def held():
        with open('/proc/self/status') as status:
            return next(int(line.split()[1]) for line in status if line.startswith('RssAnon'))

    before = held()
    select_greedy(np.ones(4000, np.float32), 3000, 4096, [1e-5], 4, 1e9, 4, 4)  # 7.5 M windows
    assert held() - before < 64_000
