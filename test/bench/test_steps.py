# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Steps: everyone keeps what top-k keeps, and is charged for what it reads."""

import numpy as np
import pytest

from neuron_chunk_ros import _native
from neuron_chunk_ros.bench.contestants import CONTENDERS, EqualImportance, policies
from neuron_chunk_ros.bench.importance import Lognormal
from neuron_chunk_ros.bench.read.steps import plan
from neuron_chunk_ros.bench.shapes import Decoder
from neuron_chunk_ros.chunking import make_policy, runs
from neuron_chunk_ros.chunking.policies import greedy_parameters
from neuron_chunk_ros.storage.profile import Line, Profile

SMALL = Decoder('small', 'Small', 128, 384, 4, 2, 32, 2)
PROFILE = Profile.assumed()


@pytest.fixture(scope='module', params=['bundled', 'separate'])
def steps(request):
    return list(plan(SMALL, request.param, [Lognormal(2, 1)], (0.0, 0.3, 0.7), CONTENDERS,
                     EqualImportance(PROFILE, 512)))


def test_all_keep_at_least_what_topk_keeps(steps):
    for sparsity in (0.0, 0.3, 0.7):
        mine = {(s.contender.policy, s.contender.reader): s for s in steps
                if s.sparsity == sparsity}
        least = mine['topk', 'paper'].kept
        assert all(step.kept >= least * (1 - 1e-6) for step in mine.values())
        assert mine['dense', 'ours'].kept == pytest.approx(1)
    assert mine['topk', 'ours'].rows == pytest.approx(0.3, abs=0.01)


def test_reads_are_charged_as_the_profile_has_them(steps):
    for step in steps:
        total = 0.0
        for part, found in zip(SMALL.layer(step.layout), step.chosen, strict=True):
            lengths = []
            for matrix, one in zip(part.matrices, found, strict=True):
                stop = None  # of the last request; what shares or touches its block joins it
                for first, count in one:
                    begin = first * matrix.row_bytes // 512 * 512
                    end = -(-(first + count) * matrix.row_bytes // 512) * 512
                    if stop is not None and begin <= stop:
                        lengths[-1] += end - stop
                    else:
                        lengths.append(end - begin)
                    stop = end
            total += PROFILE.estimate(np.array(lengths))
        assert step.estimated == pytest.approx(total)
        assert step.run_count == sum(len(one) for found in step.chosen for one in found)


def test_nothing_skipped_is_dense(steps):
    keys = {s.key for s in steps if s.sparsity == 0 and s.contender.reader == 'ours'}
    dense = {s.key for s in steps if s.contender.policy == 'dense'
             and s.contender.reader == 'ours'}
    assert keys == dense and len(dense) == 1


def test_ours_is_never_expected_to_take_longer_than_everything(steps):
    whole = max(s.estimated for s in steps if s.contender.policy == 'dense')
    assert all(s.estimated <= whole * (1 + 1e-9) for s in steps
               if s.contender.policy == 'optimal')


@pytest.mark.parametrize('rows', [5, 64, 120])
def test_greedy_is_algorithm_1_as_it_stands(rows):
    importance = Lognormal(1, 5).draw('o', 128, 0)
    size, jump = greedy_parameters(128, 256)
    largest = PROFILE.saturation_kib
    want = _native.select_greedy(importance, rows, 256, PROFILE.table(largest), size, largest,
                                 size, jump)
    if len(want):  # else no window fits the budget
        got = policies(PROFILE, 512)['greedy'](importance, rows, 256)
        np.testing.assert_array_equal(got, want)


def test_greedy_does_not_read_everything_where_that_would_be_as_fast():
    """With requests this dear the engine's would; the paper's method knows no such thing."""
    dear = Profile(Line(1e-3, 1e-9), Line(1e-3, 1e-9), 256, 256, 0.0, 'assumed')
    importance = np.repeat(np.array([9, 1, 9], np.float32), [128, 256, 128])
    engines = make_policy('greedy', dear, 512)(importance, 400, 20480)
    papers = policies(dear, 512)['greedy'](importance, 400, 20480)
    assert runs.count(engines) == 512
    assert runs.count(papers) <= 400
