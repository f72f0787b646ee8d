# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From measured times to two lines and a saturation size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.storage.measure import SIZES_KIB
from neuron_chunk_ros.storage.profile import Profile
from neuron_chunk_ros.storage.profile_fit import fit_lines, saturation

SIZES = np.array(SIZES_KIB, np.float64)


def profile(low, high, knee):
    return Profile(low, high, knee, 256, 0.0, 'assumed')   # whose checks hold for every fit


def errors(fit, sizes, seconds):
    return profile(*fit).seconds(sizes) / seconds - 1


@settings(deadline=None)
@given(st.floats(1e-7, 1e-3), st.floats(1e-8, 1e-5), st.floats(0, 3), st.integers(2, 19))
def test_exact_lines_are_found_again(request, slope, bend, knee_index):
    knee = SIZES[knee_index]
    # At most as steep as the line from the origin to the knee: throughput never falls.
    high = min(slope * bend, request / knee + slope)
    seconds = request + slope * np.minimum(SIZES, knee) + high * np.maximum(SIZES - knee, 0)
    assert np.abs(errors(fit_lines(SIZES, seconds), SIZES, seconds)).max() < 1e-6


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 1e-1), min_size=4, max_size=22), st.randoms())
def test_any_times_give_a_profile_and_no_better_one_is_near(times, random):
    sizes, seconds = SIZES[:len(times)], np.array(times)
    low, high, knee = fit_lines(sizes, seconds)
    assert sizes[0] < knee < sizes[-1]
    rates = SIZES / profile(low, high, knee).seconds(SIZES)
    assert (np.diff(rates) > -1e-9 * rates[1:]).all()
    best = (errors((low, high, knee), sizes, seconds) ** 2).sum()
    for _ in range(5):
        # Another allowed pair of lines with the same knee.
        a, b = (value * random.uniform(0.9, 1.1) for value in low)
        c = min(high.kib_seconds * random.uniform(0.9, 1.1), a / knee + b)
        other = a + b * np.minimum(sizes, knee) + c * np.maximum(sizes - knee, 0)
        assert best <= ((other / seconds - 1) ** 2).sum() * (1 + 1e-9) + 1e-12


def test_noise_of_two_percent_moves_the_fit_by_less():
    random = np.random.default_rng(1)
    for name in ('agx-orin', 'orin-nano'):
        truth = Profile.simulated(name)
        seconds = truth.seconds(SIZES) * np.exp(random.normal(0, 0.02, len(SIZES)))
        fit = fit_lines(SIZES, seconds)
        assert np.abs(errors(fit, SIZES, truth.seconds(SIZES))).max() < 0.04
        assert 100 < fit[2] < 700


@pytest.mark.parametrize('name, size', [('agx-orin', 256), ('orin-nano', 384)])
def test_saturation_of_the_published_devices(name, size):
    # 236 and 348 KiB: the smallest measured sizes that are at least as large
    assert saturation(SIZES, Profile.simulated(name).seconds(SIZES)) == size


def test_saturation_does_not_follow_one_noisy_size():
    seconds = Profile.simulated('agx-orin').seconds(SIZES)
    lucky_last, lucky_early = seconds.copy(), seconds.copy()
    lucky_last[-1] /= 1.02
    assert saturation(SIZES, lucky_last) <= 384   # the plain rule says 2048
    lucky_early[SIZES_KIB.index(64)] /= 2.5       # faster than the peak
    assert saturation(SIZES, lucky_early) == 256
    assert saturation(SIZES, SIZES * 1e-6) == 1, 'nothing but bandwidth'
