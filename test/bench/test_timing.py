# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Turns, readers and their buffers. Nothing here depends on how fast anything is."""

import gc

import numpy as np
import pytest

from neuron_chunk_ros.bench import pages
from neuron_chunk_ros.bench.scratch import scratch
from neuron_chunk_ros.bench.shapes import Input, Matrix
from neuron_chunk_ros.bench.timing import OTHER_PAGES, READERS, Readers, in_turns


def test_everyone_has_a_turn_in_each_repeat_and_the_order_changes():
    calls = []

    def task(number):
        def run(repeat):
            calls.append((repeat, number))
            return number + repeat / 100
        return run

    counted = []
    seconds, place = in_turns([task(n) for n in range(6)], 20, np.random.default_rng(0),
                              lambda: counted.append(gc.isenabled()))
    assert calls[:6] == [(-1, n) for n in range(6)]
    np.testing.assert_allclose(seconds, np.arange(6)[:, None] + np.arange(20) / 100)
    timed = calls[6:]
    assert [repeat for repeat, _ in timed] == [r for r in range(20) for _ in range(6)]
    orders = {tuple(n for _, n in timed[i:i + 6]) for i in range(0, 120, 6)}
    assert len(orders) > 10 and all(sorted(order) == list(range(6)) for order in orders)
    for number in range(6):
        for repeat in range(20):
            assert timed[place[number, repeat]] == (repeat, number)
    assert len(counted) == 6 * 21 and not any(counted), 'garbage was collected while timing'
    assert gc.isenabled()


def test_garbage_is_collected_again_after_a_failure():
    def fail(repeat):
        raise RuntimeError('no')
    with pytest.raises(RuntimeError):
        in_turns([fail], 1, np.random.default_rng(0))
    assert gc.isenabled()


def test_all_readers_read_the_same(tmp_path):
    part = Input('a', (Matrix('x', 500, 450), Matrix('y', 500, 30)))
    rng = np.random.default_rng(4)
    first = np.sort(rng.choice(250, 100, replace=False)) * 2
    chosen = np.stack([first, np.ones(100, np.int64)], axis=1)
    with scratch(tmp_path, (part,), 2) as file, \
            Readers(file.path, (part,), other_pages=True) as readers:
        extents = file.extents(1, 0, [chosen, chosen])
        with open(file.path, 'rb') as opened:
            want = b''.join(opened.seek(at) and opened.read(n) for at, n in extents.tolist())
        for name in (*READERS, *OTHER_PAGES):
            assert readers.seconds(name, [extents]) > 0
            got = np.frombuffer(readers._buffers[name], np.uint8)[:len(want)].tobytes()
            assert got == want, name


def test_scattered_pages_are_scattered():
    scattered = pages.scattered_buffer(32 << 20)
    np.frombuffer(scattered, np.uint8)[:] = 7  # it is plain, usable memory
    found = pages.pages_in_a_row(scattered)
    if not found:
        pytest.skip('only root may know where pages lie')
    assert found < 1.5
