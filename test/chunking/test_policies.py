# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Policies: budgets, shapes, and what each is for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.chunking import POLICIES, make_policy, runs
from neuron_chunk_ros.chunking.policies import cell_rows
from neuron_chunk_ros.storage.profile import Profile

PROFILE = Profile.assumed()


@settings(deadline=None)
@given(name=st.sampled_from(POLICIES), rows=st.integers(1, 400), part=st.floats(0, 1),
       row_bytes=st.integers(2, 40000), seed=st.integers(0, 1000))
def test_choices_are_runs_within_the_budget(name, rows, part, row_bytes, seed):
    importance = np.random.default_rng(seed).lognormal(size=rows).astype(np.float32)
    budget = max(1, round(rows * part))
    policy = make_policy(name, PROFILE, block_size=512)
    chosen = policy(importance, budget, row_bytes)
    ends = chosen.sum(axis=1)
    assert len(chosen) and (chosen[:, 1] > 0).all()
    assert chosen[0, 0] >= 0 and ends[-1] <= rows
    assert (chosen[1:, 0] > ends[:-1]).all(), 'runs overlap, touch or are out of order'
    if runs.count(chosen) < rows:
        assert runs.count(chosen) <= max(budget, cell_rows(row_bytes, 512))
        assert name == 'topk' or policy.seconds(chosen, row_bytes) < policy.seconds(
            runs.whole(rows), row_bytes), 'reading everything would have been no slower'


def test_greedy_makes_longer_runs_and_topk_keeps_more():
    importance = np.random.default_rng(3).lognormal(size=4096).astype(np.float32)
    chosen = {n: make_policy(n, PROFILE)(importance, 2048, 4096) for n in ('topk', 'greedy')}
    kept = {n: importance[runs.indices(c)].sum() for n, c in chosen.items()}
    assert kept['topk'] > kept['greedy'] > 0.55 * importance.sum()
    assert len(chosen['greedy']) < len(chosen['topk']) / 3


@settings(deadline=None)
@given(rows=st.integers(1, 300), row_bytes=st.integers(1, 40000), seed=st.integers(0, 1000),
       block=st.sampled_from((1, 512, 4096)), device=st.sampled_from((None, 'orin-nano')))
def test_seconds_are_the_profiles_for_whole_blocks(rows, row_bytes, seed, block, device):
    profile = Profile.simulated(device) if device else PROFILE
    importance = np.random.default_rng(seed).lognormal(size=rows).astype(np.float32)
    policy = make_policy('topk', profile, block)
    chosen = policy(importance, max(1, rows // 2), row_bytes)
    requests = []  # as the reader makes them: what shares or touches a block is one
    for begin, count in chosen:
        first, stop = begin * row_bytes // block, -(-(begin + count) * row_bytes // block)
        if requests and first <= requests[-1][1]:
            requests[-1][1] = stop
        else:
            requests.append([first, stop])
    assert policy.seconds(chosen, row_bytes) == pytest.approx(
        profile.estimate(np.array([(stop - first) * block for first, stop in requests])),
        rel=1e-12)
    assert policy.seconds(chosen[:0], row_bytes) == 0


@settings(deadline=None)
@given(name=st.sampled_from(('topk', 'greedy', 'optimal')), rows=st.integers(1, 400),
       part=st.floats(0, 1.1), row_bytes=st.integers(2, 40000), seed=st.integers(0, 1000),
       device=st.sampled_from((None, 'orin-nano', 'agx-orin')))
def test_time_budget_is_kept(name, rows, part, row_bytes, seed, device):
    profile = Profile.simulated(device) if device else PROFILE
    importance = np.random.default_rng(seed).lognormal(size=rows).astype(np.float32)
    policy = make_policy(name, profile, block_size=512)
    seconds = part * policy.seconds(runs.whole(rows), row_bytes)
    chosen = policy.within(importance, seconds, row_bytes)
    assert len(chosen) and chosen[-1].sum() <= rows
    # One row is the least there is to read, whatever it takes.
    assert runs.count(chosen) == 1 or policy.seconds(chosen, row_bytes) <= seconds * (1 + 1e-9)
    if part >= 1:
        assert runs.count(chosen) == rows


@settings(deadline=None)
@given(name=st.sampled_from(('topk', 'greedy', 'optimal')), rows=st.integers(1, 400),
       part=st.floats(0, 1), row_bytes=st.integers(2, 40000), seed=st.integers(0, 1000),
       device=st.sampled_from((None, 'orin-nano')))
def test_keeping_keeps_what_is_asked(name, rows, part, row_bytes, seed, device):
    profile = Profile.simulated(device) if device else PROFILE
    importance = np.random.default_rng(seed).lognormal(size=rows).astype(np.float32)
    wanted = part * float(importance.sum(dtype=np.float64))
    chosen = make_policy(name, profile, block_size=512).keeping(importance, wanted, row_bytes)
    kept = importance[runs.indices(chosen)].sum(dtype=np.float64)
    assert len(chosen) and kept >= wanted * (1 - 1e-6)


def test_optimal_reads_the_same_importance_faster_than_greedy_and_greedy_than_topk():
    importance = np.random.default_rng(5).lognormal(size=8192).astype(np.float32)
    kept = 0.75 * float(importance.sum())
    seconds = {}
    for name in ('topk', 'greedy', 'optimal'):
        policy = make_policy(name, PROFILE, block_size=512)
        seconds[name] = policy.seconds(policy.keeping(importance, kept, 4096), 4096)
    assert seconds['optimal'] < 0.95 * seconds['greedy']
    assert seconds['greedy'] < 0.7 * seconds['topk']


def test_frontier_ends_with_everything_and_never_falls():
    importance = np.random.default_rng(6).lognormal(size=3000).astype(np.float32)
    policy = make_policy('optimal', PROFILE, block_size=512)
    points = policy.frontier(importance, 2048)
    assert (np.diff(points, axis=0) >= -1e-6 * points[-1]).all()
    assert points[-1] == pytest.approx([policy.seconds(runs.whole(3000), 2048), 1.0], rel=1e-4)
    for seconds, kept in points[2:-1:3]:
        chosen = policy.within(importance, seconds * 1.0001, 2048)
        assert importance[runs.indices(chosen)].sum() / importance.sum() >= kept * 0.999


def test_unknown_policy():
    with pytest.raises(ValueError, match="unknown policy 'best'"):
        make_policy('best', PROFILE)
