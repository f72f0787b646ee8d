# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The native product and unpacking of packed rows against float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros import _native
from neuron_chunk_ros.storage.packed_rows import PACKED_FORMATS, REFINEMENTS, Split

FORMATS = sorted(PACKED_FORMATS)
CASES = dict(name=st.sampled_from(FORMATS), rows=st.integers(0, 40), columns=st.integers(1, 1500),
             beside=st.integers(0, 70), threads=st.integers(1, 3), seed=st.integers(0, 2 ** 32))


def packed(made, rows, columns, beside, seed):
    """Return a segment as it lies in rows of more, and the values it stands for, float64."""
    rng = np.random.default_rng(seed)
    integers = rng.integers(made.least, -made.least, (rows, columns)).astype(np.int8)
    shape = rows, -(-columns // made.group)
    scales = (rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 4, shape)).astype(np.float32)
    scales[rng.random(shape) < 0.1] = 0
    scales = (scales.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    memory = rng.integers(0, 256, (rows, beside + made.segment_bytes(columns) + beside), np.uint8)
    memory[:, beside:beside + made.segment_bytes(columns)] = made.pack(integers, scales)
    values = integers * np.repeat(scales, made.group, axis=1)[:, :columns].astype(np.float64)
    return memory, values


@pytest.mark.parametrize('kernel', _native.packed_kernels())
@settings(max_examples=150, deadline=None)
@given(**CASES, tokens=st.sampled_from([1, 2, 3, 5, 8, 64]), first=st.integers(0, 9))
def test_products(kernel, name, rows, columns, beside, threads, seed, tokens, first):
    made = PACKED_FORMATS[name]
    memory, values = packed(made, rows, columns, beside, seed)
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((tokens, rows)).astype(np.float32)
    before = rng.standard_normal((tokens, first + columns + 3)).astype(np.float32)
    out = before.copy()
    _native.packed_products(inputs, memory.ctypes.data + beside or 64, memory.shape[1], [columns],
                            made.bits, made.group, out, first, threads, kernel)
    want = before.astype(np.float64)
    want[:, first:first + columns] += inputs @ values
    # Of the sum of magnitudes: float32's own rounding.
    allowed = 1e-6 * (np.abs(inputs.astype(np.float64)) @ np.abs(values) + 1)
    assert (np.abs(out - want)[:, first:first + columns] <= allowed * 2).all()
    np.testing.assert_array_equal(out[:, :first], before[:, :first])
    np.testing.assert_array_equal(out[:, first + columns:], before[:, first + columns:])


@pytest.mark.parametrize('kernel', _native.packed_kernels())
@settings(max_examples=80, deadline=None)
@given(**CASES, dtype=st.sampled_from(['float32', 'bfloat16']))
def test_unpacking(kernel, name, rows, columns, beside, threads, seed, dtype):
    made, kind = PACKED_FORMATS[name], getattr(torch, dtype)
    memory, values = packed(made, rows, columns, beside, seed)
    out = torch.full((rows + 1, columns + 5), 7.0, dtype=kind)
    _native.unpack_rows(memory.ctypes.data + beside or 64, memory.shape[1], rows, columns,
                        made.bits, made.group, out.data_ptr(), dtype, columns + 5, threads,
                        kernel)
    want = torch.from_numpy(values.astype(np.float32)).to(kind)
    assert torch.equal(out[:rows, :columns], want)
    assert (out[rows:] == 7).all() and (out[:, columns:] == 7).all()


SPLITS = [Split(base, refinement) for base in PACKED_FORMATS.values()
          for refinement in REFINEMENTS.values()
          if base.bits < 8 and base.bits + refinement.bits <= 8]
WHOLE = [made for made in SPLITS if made.base.group == 16 and (
    made.base.bits, made.refinement.bits) in ((4, 4), (3, 5))]  # that products take in one go


def in_two_parts(made, rows, columns, beside, seed):
    """Return both parts' memory and what they stand for, float64: the base's, and together."""
    memory, alone = packed(made.base, rows, columns, beside, seed)
    end = beside + made.base.segment_bytes(columns)
    _, scales = made.base.unpack(memory[:, beside:end], columns)
    low = np.random.default_rng(seed + 1).integers(
        made.refinement.least, -made.refinement.least, (rows, columns)).astype(np.int8)
    each = np.repeat(scales, made.base.group, axis=1)[:, :columns].astype(np.float64)
    return memory, made.refinement.pack(low), alone, low * each / (1 << made.refinement.bits)


@pytest.mark.parametrize('kernel', _native.packed_kernels())
@settings(max_examples=100, deadline=None)
@given(made=st.sampled_from(SPLITS), rows=st.integers(1, 40), columns=st.integers(1, 1500),
       beside=st.integers(0, 70), seed=st.integers(0, 2 ** 32), tokens=st.integers(1, 8))
def test_products_of_refinements(kernel, made, rows, columns, beside, seed, tokens):
    """Of some rows, in any order: their scales are where their bases lie."""
    base, memory, _, low = in_two_parts(made, rows, columns, beside, seed)
    rng = np.random.default_rng(seed)
    some = rng.permutation(rows)[:rng.integers(1, rows + 1)]
    memory, low = np.ascontiguousarray(memory[some]), low[some]
    inputs = rng.standard_normal((tokens, len(some))).astype(np.float32)
    out = np.zeros((tokens, columns), np.float32)
    _native.packed_products(
        inputs, memory.ctypes.data, memory.shape[1], [columns], made.refinement.bits,
        made.base.group, out, 0, 2, kernel,
        scales=base.ctypes.data + beside, scale_bits=made.base.bits,
        scale_stride=base.shape[1], scale_rows=some, unit=0.5 ** made.refinement.bits)
    allowed = 2e-6 * (np.abs(inputs.astype(np.float64)) @ np.abs(low) + 1)
    assert (np.abs(out - inputs @ low) <= allowed).all()


@pytest.mark.parametrize('kernel', _native.packed_kernels())
@settings(max_examples=100, deadline=None)
@given(made=st.sampled_from(WHOLE), rows=st.integers(1, 40), columns=st.integers(1, 1500),
       beside=st.integers(0, 70), seed=st.integers(0, 2 ** 32), tokens=st.integers(1, 19),
       fine=st.booleans())
def test_products_of_both_parts(kernel, made, rows, columns, beside, seed, tokens, fine):
    """Of some rows, in any order: bases alone, or with their refinement in one go."""
    base, memory, alone, low = in_two_parts(made, rows, columns, beside, seed)
    rng = np.random.default_rng(seed)
    some = rng.permutation(rows)[:rng.integers(1, rows + 1)]
    memory, whole = np.ascontiguousarray(memory[some]), alone[some] + (low[some] if fine else 0)
    inputs = rng.standard_normal((tokens, len(some))).astype(np.float32)
    out = np.zeros((tokens, columns), np.float32)
    _native.packed_products(
        inputs, base.ctypes.data + beside, base.shape[1], [columns], made.base.bits,
        made.base.group, out, 0, 2, kernel, places=some,
        **({'finer': memory.ctypes.data, 'finer_stride': memory.shape[1],
            'finer_bits': made.refinement.bits} if fine else {}))
    allowed = 2e-6 * (np.abs(inputs.astype(np.float64)) @ np.abs(whole) + 1)
    assert (np.abs(out - inputs @ whole) <= allowed).all()


def test_products_of_both_parts_that_there_are_not():
    base, memory = np.zeros((2, 40), np.uint8), np.zeros((2, 40), np.uint8)
    inputs, out = np.zeros((1, 2), np.float32), np.zeros((1, 32), np.float32)
    for bits, group, finer in ((4, 32, 4), (2, 16, 6), (3, 16, 3)):
        with pytest.raises(ValueError, match='no product'):
            _native.packed_products(inputs, base.ctypes.data, 40, [32], bits, group, out, 0, 1,
                                    finer=memory.ctypes.data, finer_stride=40, finer_bits=finer)
    with pytest.raises(ValueError, match='place'):
        _native.packed_products(inputs, base.ctypes.data, 40, [32], 4, 16, out, 0, 1,
                                places=np.zeros(3, np.int64))


@pytest.mark.parametrize('kernel', _native.packed_kernels())
@settings(max_examples=60, deadline=None)
@given(made=st.sampled_from(SPLITS), rows=st.integers(1, 40), columns=st.integers(1, 1500),
       beside=st.integers(0, 70), seed=st.integers(0, 2 ** 32), fine=st.booleans(),
       dtype=st.sampled_from(['float32', 'bfloat16']))
def test_unpacking_two_parts(kernel, made, rows, columns, beside, seed, fine, dtype):
    base, memory, alone, low = in_two_parts(made, rows, columns, beside, seed)
    rng, kind = np.random.default_rng(seed), getattr(torch, dtype)
    some = rng.permutation(rows)[:rng.integers(1, rows + 1)]
    memory = np.ascontiguousarray(memory[some])
    out = torch.zeros(len(some), columns, dtype=kind)
    _native.unpack_rows(
        base.ctypes.data + beside, base.shape[1], len(some), columns, made.base.bits,
        made.base.group, out.data_ptr(), dtype, columns, 2, kernel, places=some,
        **({'finer': memory.ctypes.data, 'finer_stride': memory.shape[1],
            'finer_bits': made.refinement.bits} if fine else {}))
    want = alone[some] + (low[some] if fine else 0)
    assert torch.equal(out, torch.from_numpy(want.astype(np.float32)).to(kind))


@pytest.mark.parametrize('change, message', [
    ({'bits': 7}, 'bits'), ({'group': 48}, 'group'), ({'group': 0}, 'group'),
    ({'stride': 63}, 'stride'), ({'widths': [0]}, 'columns'), ({'widths': []}, 'segment'),
    ({'widths': [32, 32]}, 'stride'), ({'segment': 0}, 'address'),
    ({'first': 1}, 'fit'), ({'first': -1}, 'fit'), ({'threads': 0}, 'threads'),
    ({'out': np.zeros((2, 64), np.float32)}, 'shape'),
    ({'widths': [2**63 - 1]}, 'fit'), ({'widths': [64, 2**62]}, 'fit'),
    ({'widths': [-2**63]}, 'columns'), ({'first': 2**63 - 1}, 'fit'),
    ({'stride': 2**62}, 'addresses'), ({'stride': -2**63}, 'addresses'),
    ({'inputs': np.zeros(13, np.uint8)[1:].view(np.float32)[None]}, 'inputs must lie'),
    ({'out': np.zeros(257, np.uint8)[1:].view(np.float32)[None]}, 'out must lie'),
])
def test_bad_arguments(change, message):
    memory = np.zeros((3, 66), np.uint8)
    arguments = {'inputs': np.zeros((1, 3), np.float32), 'segment': memory.ctypes.data,
                 'stride': 66, 'widths': [64], 'bits': 8, 'group': 64,
                 'out': np.zeros((1, 64), np.float32), 'first': 0, 'threads': 1} | change
    with pytest.raises(ValueError, match=message):
        _native.packed_products(*arguments.values())


def test_a_group_is_no_larger_than_its_columns():
    """However large it is said to be: there is one scale then."""
    memory, inputs = np.full((3, 66), 1, np.uint8), np.ones((2, 3), np.float32)
    memory[:, 64:] = np.frombuffer(np.float32(2).tobytes(), np.uint8)[2:]
    for group in (64, 96, 2**32, 2**63 - 32):
        out = np.zeros((2, 64), np.float32)
        _native.packed_products(inputs, memory.ctypes.data, 66, [64], 8, group, out, 0, 1)
        assert (out == 6).all()
        floats = np.zeros((3, 64), np.float32)
        _native.unpack_rows(memory.ctypes.data, 66, 3, 64, 8, group, floats.ctypes.data, 'float32',
                            64, 1)
        assert (floats == 2).all()


@pytest.mark.parametrize('change, message', [
    ({'columns': 2**63 - 1}, 'addresses'), ({'columns': 2**60}, 'addresses'),
    ({'rows': 2**62}, 'addresses'), ({'rows': -1}, 'rows'), ({'stride': 2**62}, 'addresses'),
    ({'out_stride': 2**62}, 'addresses'), ({'out_stride': 2**54}, 'addresses'),
    ({'out_stride': 63}, 'out must'), ({'out': 0}, 'out must'), ({'bits': 9}, 'bits'),
])
def test_unpacking_with_bad_arguments(change, message):
    memory, out = np.zeros((3, 66), np.uint8), np.zeros((3, 64), np.float32)
    good = {'segment': memory.ctypes.data, 'stride': 66, 'rows': 3, 'columns': 64, 'bits': 8,
            'group': 64, 'out': out.ctypes.data, 'dtype': 'float32', 'out_stride': 64,
            'threads': 1}
    _native.unpack_rows(**good)
    with pytest.raises(ValueError, match=message):
        _native.unpack_rows(**(good | change))
