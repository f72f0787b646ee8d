# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Policies: budgets, shapes, and what each is for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.chunking import POLICIES, make_policy, runs
from neuron_chunk_ros.storage.profile import Profile

PROFILE = Profile.assumed()


@settings(deadline=None)
@given(name=st.sampled_from(POLICIES), rows=st.integers(1, 400), part=st.floats(0, 1),
       row_bytes=st.integers(2, 40000), seed=st.integers(0, 1000))
def test_choices_are_runs_within_the_budget(name, rows, part, row_bytes, seed):
    importance = np.random.default_rng(seed).lognormal(size=rows).astype(np.float32)
    budget = max(1, round(rows * part))
    chosen = make_policy(name, PROFILE)(importance, budget, row_bytes)
    ends = chosen.sum(axis=1)
    assert len(chosen) and (chosen[:, 1] > 0).all()
    assert chosen[0, 0] >= 0 and ends[-1] <= rows
    assert (chosen[1:, 0] > ends[:-1]).all(), 'runs overlap, touch or are out of order'
    assert runs.count(chosen) <= (rows if name == 'dense' else budget)


def test_greedy_makes_longer_runs_and_topk_keeps_more():
    importance = np.random.default_rng(3).lognormal(size=4096).astype(np.float32)
    chosen = {n: make_policy(n, PROFILE)(importance, 2048, 4096) for n in ('topk', 'greedy')}
    kept = {n: importance[runs.indices(c)].sum() for n, c in chosen.items()}
    assert kept['topk'] > kept['greedy'] > 0.55 * importance.sum()
    assert len(chosen['greedy']) < len(chosen['topk']) / 3


def test_unknown_policy():
    with pytest.raises(ValueError, match="unknown policy 'best'"):
        make_policy('best', PROFILE)
