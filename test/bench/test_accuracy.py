# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of variants: budgets kept, orders followed, nothing evaluated twice; the curves."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from neuron_chunk_ros.bench import tabletop_model
from neuron_chunk_ros.bench.accuracy.curves import Curve
from neuron_chunk_ros.bench.accuracy.measure import AccuracyOptions, Evaluation, frame_seconds
from neuron_chunk_ros.bench.accuracy.variants import (
    BASELINE,
    DENSE,
    DENSE_OURS,
    FULL,
    OURS,
    TOPK,
    Contestant,
    Variant,
    simulated,
)
from neuron_chunk_ros.bench.tabletop_exam import tabletop_exam
from neuron_chunk_ros.storage.profile import Profile

PROFILE = dataclasses.replace(Profile.assumed(), batch_seconds=5e-5)


@pytest.fixture(scope='module')
def evaluation():
    options = AccuracyOptions(Path('/nowhere'), PROFILE, decoders=('qwen2-0.5b', 'qwen2-7b'),
                      sparsities=(0.0, 0.5), scenes=3, repeats=4)
    model = tabletop_model.load()
    calibrated = tabletop_model.calibrated(3, 1, lambda done, total: None)
    return Evaluation(options, model, tabletop_exam(model, 3, 2), calibrated, 512)


@pytest.mark.slow
def test_calibration_orders_every_group_and_weighs_it(evaluation):
    known = evaluation._calibrated
    assert len(known.groups) == len(known.orders) == len(known.worth) == 20
    for group, order, importance in zip(known.groups, known.orders, known.importance,
                                        strict=True):
        np.testing.assert_array_equal(np.sort(order), np.arange(group.rows))
        assert importance.shape == (3, group.rows)
    assert all(0 < worth < 100 for worth in known.worth)


@pytest.mark.slow
@pytest.mark.parametrize('budgets', ['TEAL', 'uniform'])
def test_topk_reads_exactly_its_budgets(evaluation, budgets):
    outcome = evaluation.outcome(Variant('topk', budgets=budgets), 'qwen2-7b', 0.5)
    read = sum(rows[0].sum() * group.columns for rows, group in zip(
        outcome.read, evaluation._calibrated.groups, strict=True))
    whole = sum(group.rows * group.columns for group in evaluation._calibrated.groups)
    assert read / whole == pytest.approx(0.5, abs=0.01)


def test_hot_cold_order_moves_topks_rows_and_changes_none(evaluation):
    plain = evaluation.outcome(TOPK, 'qwen2-7b', 0.5)
    assert evaluation.outcome(Variant('topk', hot_cold=True), 'qwen2-0.5b', 0.5) is plain
    a, b = (evaluation.runs(variant, 'qwen2-7b', 0.5)
            for variant in (TOPK, Variant('topk', hot_cold=True)))
    count = [[sum(one[:, 1].sum() for one in group) for group in runs] for runs in (a, b)]
    assert count[0] == count[1]
    assert sum(len(one) for group in b for one in group) < sum(
        len(one) for group in a for one in group)


def test_nothing_skipped_is_dense_for_everyone(evaluation):
    dense = evaluation.outcome(DENSE, '', 0.0)
    assert evaluation.outcome(FULL, 'qwen2-7b', 0.0) is dense
    assert dense.rows == 1 and dense.kept == pytest.approx(1)
    for group in evaluation.runs(FULL, 'qwen2-7b', 0.0):
        assert all(len(one) == 1 for one in group)


def test_time_budgets_take_the_time_they_are_given(evaluation):
    whole = frame_seconds(evaluation, DENSE_OURS, 'qwen2-7b',
                          evaluation.runs(DENSE, 'qwen2-7b', 0.0))
    half = frame_seconds(evaluation, OURS, 'qwen2-7b', evaluation.runs(FULL, 'qwen2-7b', 0.5))
    assert (half <= 0.51 * whole).all() and (half > 0.35 * whole).all()


def test_separate_matrices_are_charged_run_by_run_and_started_once(evaluation):
    runs = evaluation.runs(TOPK, 'qwen2-7b', 0.5)
    separate, bundled = (frame_seconds(evaluation, contestant, 'qwen2-7b', runs)
                         for contestant in (BASELINE, Contestant(TOPK, 'paper')))
    counts = np.array([[len(one) for one in group] for group in runs])
    # The same bytes; two runs more for each of q, k, v and one for each of gate, up.
    extra = (2 * counts[0::4] + counts[2::4]).sum(axis=0)
    # Rows of 7168 bytes and the like end on blocks, so nothing else differs.
    np.testing.assert_allclose(separate - bundled, extra * PROFILE.low.request_seconds,
                               rtol=1e-6)


def test_simulated_devices_choose_by_their_own_tables(evaluation):
    contestants = simulated('orin-nano')
    assert contestants[0] == BASELINE
    full = contestants[-1].variant
    policy = evaluation.policy(full)
    assert policy.profile == Profile.simulated('orin-nano')
    assert evaluation.policy(FULL).profile == PROFILE
    assert evaluation.canonical(full, 'qwen2-7b', 0.5) != evaluation.canonical(
        FULL, 'qwen2-7b', 0.5)


def test_keys_are_what_outcomes_are_kept_under(evaluation):
    keys = evaluation.keys()
    assert len(set(keys)) == len(keys)
    assert all(evaluation.canonical(*key) == key for key in keys)
    assert sum(key[0].policy == 'topk' for key in keys) == 2  # TEAL and uniform at 50 %
    assert sum(key[0] == DENSE for key in keys) == 1


def curve(scores, seconds):
    scores, seconds = np.array(scores), np.array(seconds)
    return Curve((0, .1, .2, .3), (scores, scores[:, None].repeat(5, 1)),
                 (seconds, seconds[:, None].repeat(5, 1)))


def test_speedups_at_equal_accuracy():
    baseline = curve([.9, .8, .7, .6], [10, 20, 30, 40])
    values, replicas = baseline.speedups(baseline)
    np.testing.assert_allclose(values, 1, rtol=1e-6)
    np.testing.assert_allclose(replicas, 1, rtol=1e-6)
    # As accurate at half the sparsity, and its time falls from 8 to 2.
    other = curve([.9, .7, .5, .3], [8, 6, 4, 2])
    values, _ = other.speedups(baseline)
    np.testing.assert_allclose(values, [10 / 8, 20 / 7, 30 / 6, 40 / 5], rtol=1e-6)
    # Reading everything is as accurate as ever and takes the same time.
    values, _ = curve([.9] * 4, [8] * 4).speedups(baseline)
    np.testing.assert_allclose(values, [10 / 8, 20 / 8, 30 / 8, 40 / 8], rtol=1e-6)
