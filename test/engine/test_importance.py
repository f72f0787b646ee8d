# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The native mean of magnitudes against numpy in float64: dtypes, strides, kinds, threads."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros import _native

TYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16, 'float32': torch.float32}


@settings(max_examples=80, deadline=None)
@given(dtype=st.sampled_from(sorted(TYPES)), tokens=st.integers(1, 70), rows=st.integers(1, 3000),
       beside=st.integers(0, 5), kinds=st.integers(1, 3), threads=st.integers(1, 3),
       seed=st.integers(0, 2 ** 32))
def test_sums_are_numpys(dtype, tokens, rows, beside, kinds, threads, seed):
    rng = np.random.default_rng(seed)
    wide = torch.from_numpy(rng.standard_normal((tokens, rows + beside), np.float32)
                            * 10 ** rng.uniform(-6, 3)).to(TYPES[dtype])
    inputs = wide[:, :rows]
    weights = rng.random((kinds, tokens), np.float32) * (rng.random((kinds, tokens)) < 0.7)
    out = np.full((kinds, rows), np.nan, np.float32)
    _native.magnitudes(inputs.data_ptr(), dtype, inputs.stride(0) * wide.dtype.itemsize,
                       weights.astype(np.float32), out, threads)
    want = weights.astype(np.float64) @ inputs.abs().double().numpy()
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-30)


def test_tokens_of_no_weight_don_t_count_whatever_they_hold():
    inputs = torch.tensor([[1.0, -2.0], [float('nan'), float('inf')]])
    out = np.empty((1, 2), np.float32)
    _native.magnitudes(inputs.data_ptr(), 'float32', 8, np.array([[1.0, 0.0]], np.float32), out, 1)
    assert out.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize('change, message', [
    ({'dtype': 'int4'}, 'dtype'),
    ({'stride': 6}, 'aligned'),
    ({'stride': 4}, 'matrix'),
    ({'data': 0}, 'address'),
    ({'weights': np.ones(2, np.float32)}, 'shape'),
    ({'out': np.ones((2, 4), np.float32)}, 'shape'),
    ({'threads': 0}, 'threads'),
])
def test_bad_arguments(change, message):
    inputs = torch.ones(2, 4)
    arguments = {'data': inputs.data_ptr(), 'dtype': 'float32', 'stride': 16,
                 'weights': np.ones((1, 2), np.float32), 'out': np.ones((1, 4), np.float32),
                 'threads': 1} | change
    with pytest.raises(ValueError, match=message):
        _native.magnitudes(*arguments.values())
