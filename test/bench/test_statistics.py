# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics against plain references, and what they must be by definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.bench import statistics
from neuron_chunk_ros.chunking.estimate import Correction

GRID = np.arange(8) / 10
values = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


@given(values)
def test_isotonic_is_the_min_max_formula(numbers):
    want = [max(min(np.mean(numbers[j:k + 1]) for k in range(i, len(numbers)))
                for j in range(i + 1)) for i in range(len(numbers))]
    np.testing.assert_allclose(statistics.isotonic(np.array(numbers)), want, atol=1e-9)


def falling(draw_from):
    return st.lists(draw_from, min_size=8, max_size=8).map(
        lambda numbers: np.sort(np.array(numbers))[::-1])


@given(falling(st.integers(0, 50)), st.lists(st.floats(0.1, 100), min_size=8, max_size=8))
def test_a_method_compared_with_itself_takes_its_own_time(scores, seconds):
    scores, seconds = scores / 50, np.array(seconds)
    found = statistics.seconds_at(scores, GRID, seconds, scores)
    np.testing.assert_allclose(found, seconds, rtol=1e-4)


@given(falling(st.integers(0, 1000)), falling(st.integers(0, 1000)))
def test_seconds_at_finds_the_setting_with_the_accuracy(wanted, scores):
    """With time = sparsity, the answer is a setting: its accuracy on the curve is the wanted."""
    wanted, scores = wanted / 1000, scores / 1000
    settings_found = statistics.seconds_at(wanted, GRID, GRID, scores)
    reached = np.interp(settings_found, GRID, scores)
    np.testing.assert_allclose(reached, np.clip(wanted, scores[-1], scores[0]), atol=1e-4)


def test_of_settings_equally_accurate_the_one_nearest_to_the_baselines():
    scores = np.array([.9, .9, .9, .9, .8, .7, .6, .5])
    found = statistics.seconds_at(np.array([.9, .9, .8, .9, .9, .7, .5, .2]), GRID, GRID, scores)
    np.testing.assert_allclose(found, [0, .1, .4, .3, .3, .5, .7, .7], atol=1e-6)


def test_noise_in_the_accuracy_is_smoothed_before_it_is_inverted():
    scores = np.array([.90, .88, .89, .80, .70, .60, .50, .40])
    at, = statistics.seconds_at(np.array([.885] * 8), GRID, GRID, scores)[:1]
    assert at == pytest.approx(.1, abs=1e-6)  # the plateau of .885 runs from .1 to .2


def test_bootstrap_intervals_cover_the_median_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        samples = rng.exponential(1, 30)
        found = statistics.median_interval(samples, statistics.resampled(30, rng, 300))
        assert found.low <= found.value <= found.high
        hits += found.low <= np.log(2) <= found.high
    assert 0.88 <= hits / 300 <= 0.99


def test_ratios_resample_the_same_repeats_of_both():
    rng = np.random.default_rng(2)
    above, below = rng.lognormal(1, .3, 30), rng.lognormal(0, .3, 30)
    draws = statistics.resampled(30, rng, 200)
    found = statistics.ratio_interval(above, below, draws)
    replicas = [np.median(above[draw]) / np.median(below[draw]) for draw in draws]
    assert found.value == np.median(above) / np.median(below)
    np.testing.assert_allclose([found.low, found.high], np.quantile(replicas, [.025, .975]))
    # Whatever slows a repeat slows both: then the ratio is certain.
    sure = statistics.ratio_interval(2 * below, below, draws)
    assert sure.low == sure.high == pytest.approx(2)


def test_a_proportional_bias_is_foretold_and_corrected():
    rng = np.random.default_rng(3)
    estimated = rng.uniform(1, 100, 500)
    found = statistics.foretelling(estimated, 1.3 * estimated)
    assert found.steps == 500
    assert found.r_squared == pytest.approx(1)
    assert found.factor == pytest.approx(1.3)
    assert found.median_error == pytest.approx(1 - 1 / 1.3)
    assert found.corrected_error == pytest.approx(0, abs=1e-12)


def test_an_offset_costs_r_squared():
    estimated = np.linspace(1, 2, 100)
    assert statistics.foretelling(estimated, estimated + 10).r_squared < 0.5


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(.1, 10), st.floats(.1, 10)), min_size=2, max_size=60))
def test_the_running_correction_is_the_engines(steps):
    estimated, measured = np.array(steps).T
    correction, want = Correction(), []
    for foretold, took in steps:
        want.append(foretold * correction.factor)
        correction.observe(foretold, took)
    np.testing.assert_allclose(statistics.running_correction(estimated, measured), want)
