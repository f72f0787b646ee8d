# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sources of importance: what they promise about their vectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_chunk_ros.bench.importance import HotCold, Lognormal, Recorded, variation
from neuron_chunk_ros.chunking.hot_cold import marks


@pytest.mark.parametrize('cv, tolerance', [(0.5, 0.02), (1.07, 0.05), (2.0, 0.2)])
def test_lognormal_has_the_variation_asked_for(cv, tolerance):
    drawn = Lognormal(cv, 1).draw('down', 400_000, 0)
    assert drawn.dtype == np.float32
    assert drawn.mean() == pytest.approx(1, abs=0.02)
    assert variation(drawn) == pytest.approx(cv, abs=tolerance)
    # Neighbours know nothing of each other.
    assert abs(np.corrcoef(np.log(drawn[:-1]), np.log(drawn[1:]))[0, 1]) < 0.01


def test_lognormal_is_the_same_for_the_same_number_only():
    source = Lognormal(2, 1)
    first = source.draw('qkv', 100, 0)
    np.testing.assert_array_equal(first, Lognormal(2, 1).draw('qkv', 100, 0))
    for other in (source.draw('qkv', 100, 1), source.draw('o', 100, 0),
                  Lognormal(2, 2).draw('qkv', 100, 0), Lognormal(1.07, 1).draw('qkv', 100, 0)):
        assert not np.array_equal(np.argsort(first), np.argsort(other))


def recorded(frames=40, layers=3, width=16, seed=0):
    rng = np.random.default_rng(seed)
    # Layers of very different size, rows of lasting importance.
    scale = 10.0 ** np.arange(layers)[:, None] * rng.lognormal(0, 1, (layers, width))
    found = scale * rng.lognormal(0, 0.3, (frames, layers, width))
    return found.astype(np.float32)


@given(st.integers(1, 200), st.integers(0, 3))
def test_recorded_lays_whole_vectors_side_by_side(rows, number):
    vectors = recorded()
    drawn = Recorded({'o': vectors}).draw('o', rows, number)
    assert drawn.shape == (rows,)
    plain = vectors / vectors.mean(axis=-1, keepdims=True)
    known = {tuple(np.round(one, 4)) for frame in plain for one in frame}
    pieces = [tuple(np.round(drawn[i:i + 16], 4)) for i in range(0, rows - 15, 16)]
    assert len(set(pieces)) == len(pieces), 'a piece was laid twice'
    assert set(pieces) <= known


def test_no_layer_of_recorded_outweighs_another():
    drawn = Recorded({'o': recorded()}).draw('o', 48, 0).reshape(3, 16)
    np.testing.assert_allclose(drawn.mean(axis=1), 1, rtol=1e-5)


def test_hot_cold_reorders_by_other_draws():
    source = Recorded({'o': recorded()})
    ordered = HotCold(source, 4)
    order = ordered.order('o', 100)
    np.testing.assert_array_equal(np.sort(order), np.arange(100))
    np.testing.assert_array_equal(ordered.draw('o', 100, 0), source.draw('o', 100, 0)[order])
    counts = np.sum([marks(source.draw('o', 100, 4 + i)) for i in range(20)], axis=0)
    assert (np.diff(counts[order]) <= 0).all(), 'not hot to cold'


def test_hot_cold_helps_where_importance_lasts_and_not_where_it_does_not():
    def half(source):
        drawn = source.draw('o', 480, 0)
        return drawn[:240].sum() / drawn.sum()
    lasting = Recorded({'o': recorded(frames=300)})
    assert half(HotCold(lasting, 8)) > 0.65 > half(lasting)
    assert half(HotCold(Lognormal(1, 3), 8)) == pytest.approx(0.5, abs=0.08)
