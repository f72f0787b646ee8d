# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows widened by Triton, in its interpreter: bit for bit what torch's operations make of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.engine.rows import _unpacked
from neuron_chunk_ros.storage.packed_rows import PACKED_FORMATS, REFINEMENTS, Split

SPLITS = [Split(PACKED_FORMATS[f'int{base}-16'], REFINEMENTS[f'plus{rest}'])
          for base in (2, 3, 4) for rest in (2, 3, 4, 5, 6) if base + rest <= 8]


@pytest.fixture(scope='module')
def rows(interpreted):
    from neuron_chunk_ros.engine import triton_rows
    return triton_rows


def bits_of(tensor):
    return tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(PACKED_FORMATS)), columns=st.integers(1, 300),
       count=st.integers(1, 6), behind=st.integers(0, 3), seed=st.integers(0, 2 ** 32),
       dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_packed_rows(rows, name, columns, count, behind, seed, dtype):
    made, rng = PACKED_FORMATS[name], np.random.default_rng(seed)
    values = rng.standard_normal((count, columns)).astype(np.float32) * 10.0 ** rng.integers(-3, 3)
    packed = made.pack(*made.quantise(values))
    # a segment among others, of an odd stride: as wide rows have them
    around = np.full((count, packed.shape[1] + behind + 1), 0xA5, np.uint8)
    around[:, 1:1 + packed.shape[1]] = packed
    segment = torch.from_numpy(around)[:, 1:1 + packed.shape[1]]
    out = torch.full((count, columns + 2), 7.0, dtype=dtype)
    rows.widen_segment(segment, made, out[:, 1:1 + columns])
    want = _unpacked(torch.from_numpy(packed), made, columns).to(dtype)
    # The interpreter cuts where a GPU rounds to the nearest bfloat16.
    off = (bits_of(out[:, 1:1 + columns]) - bits_of(want)).abs().max()
    assert off <= (1 if dtype == torch.bfloat16 else 0)
    assert (out[:, 0] == 7).all() and (out[:, -1] == 7).all()


@settings(max_examples=60, deadline=None)
@given(split=st.sampled_from(SPLITS), columns=st.integers(1, 200), count=st.integers(1, 8),
       picks=st.booleans(), refined=st.booleans(), seed=st.integers(0, 2 ** 32))
def test_rows_in_two_parts(rows, split, columns, count, picks, refined, seed):
    rng = np.random.default_rng(seed)
    fine, scales = split.quantise(rng.standard_normal((count, columns)).astype(np.float32))
    high, low = split.cut(fine)
    base = torch.from_numpy(split.base.pack(high, scales))
    places = torch.from_numpy(rng.permutation(count)[:rng.integers(1, count + 1)]
                              if picks else np.arange(count)).long()
    finer = torch.from_numpy(split.refinement.pack(low))[places] if refined else None
    out = torch.empty(len(places), columns)
    rows.widen_segment(base, split.base, out, places if picks else None, finer, split.refinement)
    want = _unpacked(base[places], split.base, columns, finer, split.refinement.bits)
    assert torch.equal(bits_of(out), bits_of(want))


def test_no_rows_are_no_work(rows):
    made = PACKED_FORMATS['int4']
    rows.widen_segment(torch.empty(0, 10, dtype=torch.uint8), made, torch.empty(0, 20))
