# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a step skips rows at all goes by what whole steps took."""

from hypothesis import given
from hypothesis import strategies as st

from neuron_chunk_ros.chunking.estimate import StepTimes


def run(dense, sparse, steps):
    """Return which of so many steps read everything."""
    times, chosen = StepTimes(), []
    for _ in range(steps):
        everything = times.dense_is_faster('frame', 'half')
        times.observe('frame', 'half', everything, dense if everything else sparse)
        chosen.append(everything)
    return chosen


@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_the_faster_way_is_found_and_looked_at_again(dense, sparse):
    chosen = run(dense, sparse, 400)
    settled = chosen[40:]
    wrong = sum(everything != (dense < sparse) for everything in settled)
    assert wrong <= 0.03 * len(settled) + 1
    assert True in chosen[:20]  # reading everything was tried


def test_kinds_are_learnt_apart():
    times = StepTimes()
    for _ in range(20):
        times.observe('frame', 'half', False, 2.0)
        times.observe('frame', 'half', True, 1.0)
        times.observe('token', 'half', False, 1.0)
        times.observe('token', 'half', True, 2.0)
    assert times.dense_is_faster('frame', 'half') and not times.dense_is_faster('token', 'half')
    assert times.dense('frame') == 1.0 and times.dense('unknown') is None


def test_another_sparsity_is_another_question():
    times = StepTimes()
    for _ in range(20):
        times.observe('frame', 'half', False, 2.0)
        times.observe('frame', 'half', True, 1.0)
    assert not times.dense_is_faster('frame', 'most')
    for _ in range(20):
        times.observe('frame', 'most', False, 0.5)
    assert not times.dense_is_faster('frame', 'most')
    assert times.dense_is_faster('frame', 'half')  # what was learnt is kept meanwhile


def test_memory_is_bounded():
    times = StepTimes()
    for number in range(1000):
        times.observe(number % 70, number, number % 2 == 0, 1.0)
    assert all(len(kept) <= 64 for kept in vars(times).values())
