# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of integers and scales: what is packed comes back, errors stay within half a step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros import _native
from neuron_chunk_ros.storage.packed_rows import BLOCK, PACKED_FORMATS, REFINEMENTS, Split

FORMATS = sorted(PACKED_FORMATS)
SPLITS = [Split(base, refinement) for base in PACKED_FORMATS.values()
          for refinement in REFINEMENTS.values()
          if base.bits < 8 and base.bits + refinement.bits <= 8]
WIDTHS = st.lists(st.integers(1, 200), min_size=1, max_size=3)


def some_values(seed, rows, columns):
    """Return values of very different size, outliers and zeros among them."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-30, 30, (rows, 1))
    values[rng.random((rows, columns)) < 0.1] = 0
    values[rng.random((rows, columns)) < 0.02] *= 50
    return values.astype(np.float32)


def away_from_zero(values):
    """Return the bfloat16 values of the next larger magnitude."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(1, 300), st.integers(0, 5), st.integers(0, 2 ** 32))
def test_packing_loses_nothing(name, columns, rows, seed):
    made, rng = PACKED_FORMATS[name], np.random.default_rng(seed)
    integers = rng.integers(made.least, -made.least, (rows, columns)).astype(np.int8)
    groups = -(-columns // made.group)
    bits = rng.integers(0, 0x7F80, (rows, groups), np.uint32) | (
        rng.integers(0, 2, (rows, groups), np.uint32) << 15)
    scales = (bits << 16).view(np.float32)
    packed = made.pack(integers, scales)
    assert packed.shape == (rows, made.segment_bytes(columns)) and packed.shape[1] % 2 == 0
    got, found = made.unpack(packed, columns)
    np.testing.assert_array_equal(got, integers)
    np.testing.assert_array_equal(found.view(np.uint32), scales.view(np.uint32))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMATS), WIDTHS, st.integers(1, 4), st.integers(0, 2 ** 32))
def test_values_come_back_within_their_grid(name, widths, rows, seed):
    made, values = PACKED_FORMATS[name], some_values(seed, rows, sum(widths))
    packed = made.pack_rows(values, widths)
    assert packed.shape == (rows, made.row_bytes(widths))
    got = made.unpack_rows(packed, widths)
    left = 0
    for width in widths:
        for first in range(left, left + width, made.group):
            end = min(first + made.group, left + width)
            part = values[:, first:end].astype(np.float64)
            error = np.square(got[:, first:end] - part).sum(axis=1)
            most = np.take_along_axis(part, np.abs(part).argmax(axis=1)[:, None], axis=1)
            scale = away_from_zero(most / made.least)
            with np.errstate(divide='ignore', invalid='ignore'):
                plain = np.nan_to_num(np.clip(np.rint(part / scale), made.least, -made.least - 1))
            # At most the error of the grid that ends at the largest value.
            assert (error <= np.square(plain * scale - part).sum(axis=1) * 1.01 + 1e-70).all()
        left += width
    assert (got[values == 0] == 0).all()


@pytest.mark.parametrize('name', FORMATS)
def test_segments_move_as_bytes(name):
    """A group of two linear layers holds, side by side, what each alone would."""
    made, widths = PACKED_FORMATS[name], (70, 129)
    values = some_values(1, 6, sum(widths))
    both = made.pack_rows(values, widths)
    one, other = made.pack_rows(values[:, :70], [70]), made.pack_rows(values[:, 70:], [129])
    np.testing.assert_array_equal(both, np.concatenate([one, other], axis=1))
    np.testing.assert_array_equal(both[[3, 1]], made.pack_rows(values[[3, 1]], widths))


@pytest.mark.parametrize('name', FORMATS)
def test_zeros_and_extremes(name):
    made = PACKED_FORMATS[name]
    values = np.zeros((4, 2 * made.group), np.float32)
    values[1, 0], values[1, 1] = np.finfo(np.float32).max, np.finfo(np.float32).min
    values[2, 5] = np.finfo(np.float32).smallest_subnormal
    values[3, :] = -1.5
    got = made.unpack_rows(made.pack_rows(values, [values.shape[1]]), [values.shape[1]])
    assert np.isfinite(got).all() and (got[0] == 0).all()
    np.testing.assert_allclose(got[1, :2], values[1, :2], rtol=2.0 ** (1 - made.bits) + 0.02)
    np.testing.assert_allclose(got[3], values[3], rtol=0.01)
    with pytest.raises(OverflowError, match=name):
        made.quantise(np.array([[1.0, np.nan]], np.float32))


def test_sizes():
    """Bytes against bfloat16, as the documents say."""
    for name, share in (('int8', 0.504), ('int4', 0.281), ('int4-64', 0.266)):
        assert PACKED_FORMATS[name].row_bytes([17920]) / (2 * 17920) == pytest.approx(
            share, abs=1e-3)


@pytest.mark.parametrize('name', FORMATS)
def test_what_can_not_be_packed(name):
    made = PACKED_FORMATS[name]
    one = np.ones((1, BLOCK), np.int8)
    scale = np.ones((1, max(1, BLOCK // made.group)), np.float32)
    if made.bits < 8:
        with pytest.raises(ValueError, match='out of the range'):
            made.pack(-made.least * one, scale)
    with pytest.raises(ValueError, match='not a finite bfloat16'):
        made.pack(one, 1.001 * scale)
    with pytest.raises(ValueError, match='not a finite bfloat16'):
        made.pack(one, np.inf * scale)
    with pytest.raises(ValueError, match='shape'):
        made.pack(one, np.ones((1, 3), np.float32))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SPLITS), WIDTHS, st.integers(0, 4), st.integers(0, 2 ** 32))
def test_two_parts_are_one_finer_integer(made, widths, rows, seed):
    """Both parts together round as finely as their bits, the base alone as finely as its own."""
    values = some_values(seed, rows, sum(widths))
    bases, refinements, left = [], [], 0
    for width in widths:
        fine, scales = made.quantise(values[:, left:left + width])
        base, low = made.cut(fine)
        np.testing.assert_array_equal(made.join(base, low), fine)
        bases.append(made.base.pack(base, scales))
        refinements.append(made.refinement.pack(low))
        np.testing.assert_array_equal(made.refinement.unpack(refinements[-1], width), low)
        left += width
    base, low = np.concatenate(bases, axis=1), np.concatenate(refinements, axis=1)
    assert low.shape == (rows, made.refinement.row_bytes(widths))
    both = made.unpack_rows(base, low, widths).astype(np.float64)
    alone = made.base.unpack_rows(base, widths).astype(np.float64)
    left = 0
    for width in widths:
        for first in range(left, left + width, made.base.group):
            part = slice(first, min(first + made.base.group, left + width))
            most = np.abs(values[:, part]).max(axis=1, initial=0)[:, None].astype(np.float64)
            step = 1.01 * most / (1 << (made.bits - 1)) + 1e-43
            # The far end of the other sign is a step of the base less one of the fine grid short.
            short = ((1 << (made.bits - 1)) - made.largest) * step
            assert (np.abs(both[:, part] - values[:, part]) <= np.maximum(
                0.51 * step, short)).all()
            assert (np.abs(alone[:, part] - both[:, part])
                    <= (0.51 * step * (1 << made.refinement.bits))).all()
        left += width


def test_integers_without_a_place_are_refused():
    made = Split(PACKED_FORMATS['int4-16'], REFINEMENTS['plus4'])
    assert (made.name, made.bits, made.largest) == ('int4-16+4', 8, 119)
    for wrong in (120, 127):
        with pytest.raises(ValueError, match='out of the range of int4-16'):
            made.cut(np.full((1, 3), wrong, np.int8))
    with pytest.raises(ValueError, match='out of the range of plus4'):
        made.refinement.pack(np.full((1, 3), 8, np.int8))
    with pytest.raises(OverflowError, match='not finite'):
        made.quantise(np.full((1, 3), np.inf, np.float32))


@pytest.mark.parametrize('group', [1, 7, 32, 2**40, 2**63 - 1])
def test_groups_larger_than_rows_are_rows(group):
    values = np.random.default_rng(1).standard_normal((40, 50)).astype(np.float32)
    integers, scales = _native.round_to_integers(values, 8, group, [1.0], 2)
    assert scales.shape == (40, -(-50 // min(group, 50)))
    want = _native.round_to_integers(values, 8, min(group, 50), [1.0], 1)
    np.testing.assert_array_equal(integers, want[0])
    np.testing.assert_array_equal(scales, want[1])


@pytest.mark.parametrize('wrong', [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_becomes_some_integer(wrong):
    """A caller's mistake; but the same everywhere, and its neighbours' groups are untouched."""
    values = np.ones((1, 48), np.float32)
    values[0, 3] = wrong
    integers, scales = _native.round_to_integers(values, 4, 16, [1.0, 0.9], 1)
    assert (np.abs(integers.astype(int)) <= 8).all()
    np.testing.assert_array_equal(integers[0, 16:] * scales[0, 1], 1)
