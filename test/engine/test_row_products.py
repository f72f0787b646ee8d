# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The native product of few tokens against a float64 reference."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_chunk_ros import _native
from neuron_chunk_ros.storage.row_format import ROW_FORMATS


def multiply(inputs, weights, dtype, out, threads=1):
    _native.row_products(inputs, weights.ctypes.data, dtype, *weights.shape, out, threads)


@given(st.integers(1, 8), st.integers(0, 40), st.integers(1, 700),
       st.sampled_from(['bfloat16', 'float16', 'float32']), st.integers(1, 4), st.integers(0, 99))
def test_equals_float64(tokens, count, columns, dtype, threads, seed):
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((tokens, count)).astype(np.float32)
    weights = np.ascontiguousarray(ROW_FORMATS[dtype].pack(
        rng.standard_normal((count, columns)).astype(np.float32)))
    before = rng.standard_normal((tokens, columns)).astype(np.float32)
    out = before.copy()
    if not count:
        weights = np.zeros((1, columns), weights.dtype)[:0]
    multiply(inputs, weights, dtype, out, threads)
    values = ROW_FORMATS[dtype].unpack(weights).reshape(count, columns).astype(np.float64)
    want = before + inputs.astype(np.float64) @ values
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5 * (1 + np.abs(want).max()))


def test_large_enough_for_all_threads():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((3, 513)).astype(np.float32)
    weights = ROW_FORMATS['bfloat16'].pack(
        rng.standard_normal((513, 5000)).astype(np.float32))
    want = inputs.astype(np.float64) @ ROW_FORMATS['bfloat16'].unpack(weights).astype(np.float64)
    for threads in (1, 2, 3, 7):
        out = np.zeros((3, 5000), np.float32)
        multiply(inputs, weights, 'bfloat16', out, threads)
        np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-3)


def test_every_float16_is_widened_exactly():
    """Subnormal numbers, infinities and NaN too."""
    weights = np.arange(1 << 16, dtype=np.uint16).reshape(1, -1)
    out = np.zeros((1, 1 << 16), np.float32)
    multiply(np.ones((1, 1), np.float32), weights, 'float16', out)
    np.testing.assert_array_equal(out, weights.view(np.float16).astype(np.float32))


def test_a_forked_child_multiplies_too():
    inputs, weights = np.ones((1, 600), np.float32), np.ones((600, 4000), np.float32)
    out = np.zeros((1, 4000), np.float32)
    multiply(inputs, weights, 'float32', out, 2)
    child = os.fork()
    if not child:
        again = np.zeros((1, 4000), np.float32)
        multiply(inputs, weights, 'float32', again, 2)
        os._exit(0 if (again == 600).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (out == 600).all()


@pytest.mark.parametrize('change, message', [
    ({'dtype': 'int8'}, 'dtype must be'),
    ({'inputs': np.ones((1, 3), np.float32)}, 'inputs must be of shape'),
    ({'out': np.ones((2, 5), np.float32)}, 'out must be of shape'),
    ({'inputs': np.ones((65, 4), np.float32), 'out': np.ones((65, 5), np.float32)}, '1 to 64'),
    ({'weights': 0}, 'aligned address'),
    ({'threads': 0}, 'threads must be'),
])
def test_bad_arguments(change, message):
    rows = np.ones((4, 5), np.float32)
    good = {'inputs': np.ones((1, 4), np.float32), 'weights': rows.ctypes.data, 'count': 4,
            'columns': 5, 'dtype': 'float32', 'out': np.ones((1, 5), np.float32), 'threads': 1}
    with pytest.raises(ValueError, match=message):
        _native.row_products(**(good | change))


def test_what_may_not_be_written_is_not():
    rows, out = np.ones((4, 5), np.float32), np.zeros((1, 5), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match='writeable'):
        multiply(np.ones((1, 4), np.float32), rows, 'float32', out)
    assert not out.any()
