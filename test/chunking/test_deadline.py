# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Spending milliseconds over groups, and correcting estimates."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.chunking.deadline import Pacer, spend
from neuron_chunk_ros.chunking.estimate import Correction


def frontiers(rng, groups, points=5):
    """Concave curves from cheap to whole."""
    time = np.cumsum(rng.uniform(0.1, 1, (groups, points)), axis=1)
    rates = -np.sort(-rng.uniform(0, 1, (groups, points)), axis=1)
    kept = np.cumsum(rates * np.diff(time, axis=1, prepend=0), axis=1)
    return np.stack([time, kept / kept[:, -1:]], axis=2)


@pytest.mark.parametrize('seed', range(20))
def test_spend_keeps_as_much_as_trying_every_combination(seed):
    rng = np.random.default_rng(seed)
    curves = frontiers(rng, groups=4)
    budget = rng.uniform(0.2, 0.9) * curves[:, -1, 0].sum()
    plan = spend(curves, budget)
    assert plan.sum() == pytest.approx(budget, rel=1e-6)
    mine = sum(np.interp(t, np.append(0, c[:, 0]), np.append(0, c[:, 1]))
               for t, c in zip(plan, curves, strict=True))
    choices = [np.vstack([[0, 0], c]) for c in curves]
    best = max(sum(p[1] for p in picked) for picked in itertools.product(*choices)
               if sum(p[0] for p in picked) <= budget)
    # Curves are taken to go straight between their points, so nothing on them is better.
    assert mine >= best - 1e-9


@settings(deadline=None)
@given(seed=st.integers(0, 1000), part=st.floats(0, 2))
def test_spend_never_overspends(seed, part):
    curves = frontiers(np.random.default_rng(seed), groups=6)
    budget = part * curves[:, -1, 0].sum()
    plan = spend(curves, budget)
    assert (plan >= 0).all() and plan.sum() <= budget + 1e-9
    assert (plan <= curves[:, -1, 0] + 1e-9).all()


def test_spend_prefers_the_group_that_gains_more():
    curve = np.array([[1.0, 0.5], [2.0, 1.0]])
    steep = np.array([[1.0, 0.9], [2.0, 1.0]])
    plan = spend(np.stack([curve, steep]), 2.0)
    assert plan == pytest.approx([1.0, 1.0])
    plan = spend(np.stack([curve, steep]), 1.0)
    assert plan == pytest.approx([0.0, 1.0])


def play(pacer, seconds, beside, slowness, after=0.0):
    """Play a step on a clock of our own; returns its length and what each group got."""
    pacer.begin('decode', seconds)
    now = reading = 0.0
    got = []
    for name in ('a', 'b', 'c', 'd'):
        now += beside / 2
        share = pacer.share(name, now, reading)
        got.append(share)
        taken = min(share, 1.0) * slowness
        now, reading = now + taken + beside / 2, reading + taken
    pacer.end(now, reading, now + after)
    return now + after, got


def test_pacer_learns_what_goes_by_beside_reading():
    pacer = Pacer(dict.fromkeys('abcd', 1.0))
    lengths = [play(pacer, 2.0, beside=0.1, slowness=1.0, after=0.3)[0] for _ in range(6)]
    assert lengths[0] > 2.0, 'the first step cannot know what comes after its last group'
    assert lengths[-1] == pytest.approx(2.0, rel=0.05)


def test_pacer_catches_up_within_a_step_when_reads_are_slow():
    pacer = Pacer(dict.fromkeys('abcd', 1.0))
    length, got = play(pacer, 2.0, beside=0.0, slowness=1.5)
    assert got[0] == pytest.approx(0.5) and got[1] < 0.45
    assert length < 2.0 * 1.25


def test_pacer_follows_the_frontiers():
    pacer = Pacer(dict.fromkeys('ab', 1.0))
    pacer.begin('decode', 1.0)
    assert pacer.share('a', 0.0, 0.0) == pytest.approx(0.5)
    pacer.learn('a', np.array([[0.1, 0.9], [1.0, 1.0]]))
    pacer.learn('b', np.array([[0.5, 0.1], [1.0, 1.0]]))
    pacer.begin('decode', 1.2)
    assert pacer.share('a', 0.0, 0.0) < 0.25
    pacer.begin('prefill', 1.2)
    assert pacer.share('a', 0.0, 0.0) == pytest.approx(0.6), 'another kind of step, other curves'


def test_pacer_gives_nothing_when_time_is_up():
    pacer = Pacer(dict.fromkeys('ab', 1.0))
    pacer.begin('decode', 1.0)
    assert pacer.share('b', 1.5, 0.0) == 0.0


@given(ratios=st.lists(st.floats(0.3, 3), min_size=1, max_size=40))
def test_correction_is_the_median_of_the_newest_ratios(ratios):
    correction = Correction()
    for ratio in ratios:
        correction.observe(2.0, 2.0 * ratio)
    assert correction.factor == pytest.approx(np.median(ratios[-15:]))


def test_correction_ignores_what_cannot_be():
    correction = Correction()
    correction.observe(0.0, 1.0)
    correction.observe(1.0, 0.0)
    assert correction.factor == 1.0
