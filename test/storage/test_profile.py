# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The latency table as arithmetic: two lines, the published devices, and what is refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_chunk_ros.storage.profile import Line, Profile

KIB = np.array([1, 3.5, 64, 65, 300])


def two_lines():
    """10 us + 0.5 us/KiB to 64 KiB, where it is 42 us; 1 us/KiB from there on."""
    return Profile(Line(10e-6, 0.5e-6), Line(42e-6 - 41.6e-6, 0.65e-6), 64, 128, 5e-6, 'assumed')


def test_two_lines_by_hand():
    profile = two_lines()
    want = np.array([10.5, 11.75, 42, 42.65, 0.4 + 0.65 * 300]) * 1e-6
    assert np.allclose(profile.seconds(KIB), want, rtol=1e-12)
    assert profile.seconds(KIB).dtype == np.float64
    assert np.allclose(profile.table(65)[[0, 63, 64]], want[[0, 2, 3]], rtol=1e-12)
    assert len(profile.table(65)) == 65


def test_a_batch_is_its_reads_and_one_start():
    profile = two_lines()
    lengths = np.array([1024, 3584, 65536, 65536])
    want = (5 + 10.5 + 11.75 + 42 + 42) * 1e-6
    assert profile.estimate(lengths) == pytest.approx(want)
    assert profile.estimate(list(lengths)) == pytest.approx(want)
    assert profile.estimate(np.array([], np.int64)) == 0.0


def test_assumed():
    profile = Profile.assumed()
    assert profile.source == 'assumed' and profile.saturation_kib == 256
    throughput = KIB * 1024 / profile.seconds(KIB)
    assert throughput[-1] < 3.5e9 and (np.diff(throughput) > 0).all()
    assert 32 * 1024 / profile.seconds(32) == pytest.approx(3.5e9 / 2)
    assert profile.low == profile.high and profile.line == pytest.approx(profile.low)


@pytest.mark.parametrize('name, peak, saturation', [('agx-orin', 7450e6, 236),
                                                    ('orin-nano', 3500e6, 348)])
def test_simulated_devices_have_the_published_figures(name, peak, saturation):
    profile = Profile.simulated(name)
    assert profile.source == 'simulated' and profile.saturation_kib == saturation
    kib = np.arange(1, 4097)
    throughput = kib * 1024 / profile.seconds(kib)
    assert throughput[73] == pytest.approx(peak / 2)
    assert throughput[saturation - 1] == pytest.approx(0.99 * peak)
    assert (np.diff(throughput) > 0).all() and throughput[-1] < peak
    assert 1024 / profile.high.kib_seconds == pytest.approx(peak)


def test_unknown_device():
    with pytest.raises(ValueError, match="unknown device 'xavier': choose one of agx-orin, "):
        Profile.simulated('xavier')


@given(st.floats(0, 1e-3), st.floats(1e-9, 1e-5), st.floats(0.05, 1), st.floats(1.5, 500),
       st.integers(2, 400))
def test_line_is_the_nearest_in_relative_error(request, slope, bend, knee, saturation):
    high = Line(request + slope * knee * (1 - bend), slope * bend)   # throughput never falls
    profile = Profile(Line(request, slope), high, knee, saturation, 0.0, 'assumed')
    kib = np.arange(1, saturation + 1)

    def error(line):
        return ((line.at(kib) / profile.seconds(kib) - 1) ** 2).sum()

    best = profile.line
    assert min(best) >= 0
    for factors in ((1.01, 1), (0.99, 1), (1, 1.01), (1, 0.99), (1.01, 0.99), (0.99, 1.01)):
        assert error(best) <= error(Line(best[0] * factors[0], best[1] * factors[1])) + 1e-9


@pytest.mark.parametrize('change, message', [
    ({'low': Line(-1e-6, 1e-6)}, 'negative'),
    ({'high': Line(0.0, float('nan'))}, 'finite'),
    ({'batch_seconds': float('inf')}, 'finite'),
    ({'high': Line(1.0, 1.0)}, 'do not meet'),
    ({'low': Line(0.0, 0.0), 'high': Line(0.0, 0.0)}, 'must take time'),
    ({'knee_kib': 0}, 'must be positive'),
    ({'saturation_kib': 0}, 'must be positive'),
    ({'source': 'guessed'}, 'source is none of measured'),
    ({'sizes_kib': (1, 2), 'seconds_per_read': (1.0,)}, 'as many'),
    ({'sizes_kib': (2, 1), 'seconds_per_read': (1.0, 2.0), 'quartiles': ((1, 1), (2, 2))},
     'ascending'),
    ({'sizes_kib': (0,), 'seconds_per_read': (1.0,), 'quartiles': ((1, 1),)}, 'ascending'),
    ({'sizes_kib': (1,), 'seconds_per_read': (0.0,), 'quartiles': ((0, 0),)}, 'not positive'),
    ({'sizes_kib': (1,), 'seconds_per_read': (3.0,), 'quartiles': ((1, 2),)}, 'quartiles'),
])
def test_impossible_numbers_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(two_lines(), **change)
