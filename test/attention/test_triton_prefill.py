# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The GPU's kernel, in Triton's interpreter: what regrouping computes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_attention import tables

from neuron_chunk_ros.attention.regrouping import attend
from neuron_chunk_ros.attention.segments import Segment, SegmentTable
from neuron_chunk_ros.attention.templates import DENSE, INTRA, INTRA_SINK, SINK


@pytest.fixture(scope='module')
def kernel(interpreted):
    from neuron_chunk_ros.attention import triton_prefill
    return triton_prefill


@settings(max_examples=25, deadline=None)
@given(table=tables(3, 75), width=st.sampled_from([64, 80, 128]), shared=st.sampled_from([1, 2]),
       part=st.floats(0, 1), seed=st.integers(0, 2 ** 32), data=st.data())
def test_the_kernel_is_the_regrouping(kernel, table, width, shared, part, seed, data):
    heads, tokens = 2 * shared, table.tokens
    classes = data.draw(st.lists(st.integers(0, 3), min_size=heads, max_size=heads))
    new = max(1, round(part * tokens))
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(1, heads, new, width, generator=generator)
    key, value = (torch.randn(1, 2, tokens, width, generator=generator) for _ in range(2))
    got = kernel.attend(query, key, value, table, classes, 0.2, rows=16, columns=32)
    torch.testing.assert_close(got, attend(query, key, value, table, classes, 0.2), rtol=1e-4,
                               atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(kernel, dtype):
    table = SegmentTable([Segment(9), *[Segment(50, True, (0, 49))] * 3, Segment(7)])
    query = torch.randn(1, 4, table.tokens, 64).to(dtype)
    key, value = (torch.randn(1, 2, table.tokens, 64).to(dtype) for _ in range(2))
    classes = [DENSE, SINK, INTRA, INTRA_SINK]
    got = kernel.attend(query, key, value, table, classes)
    torch.testing.assert_close(got, attend(query, key, value, table, classes), rtol=0.02,
                               atol=0.02)


def test_blocks_that_nobody_sees_are_not_visited(kernel):
    table = SegmentTable([Segment(16), *[Segment(196, True, (195,))] * 16, Segment(16)])
    marks, _ = kernel._marks(table)
    lists, begins = kernel._visits(table, 0, 64, 64, marks)
    blocks = -(-table.tokens // 64)
    visits = [begins[(kind + 1) * blocks] - begins[kind * blocks] for kind in range(4)]
    assert visits[DENSE] == blocks * (blocks + 1) // 2
    # An image is three blocks long; the sinks of sixteen lie in at most seventeen blocks.
    assert visits[INTRA] < 0.25 * visits[DENSE] and visits[INTRA] < visits[INTRA_SINK]
    assert visits[INTRA_SINK] < 0.6 * visits[DENSE]


def test_what_does_not_fit_is_refused(kernel):
    with pytest.raises(ValueError, match='tokens in segments'):
        kernel.attend(*[torch.zeros(1, 2, 5, 64)] * 3, SegmentTable([Segment(4)]), [0, 0])
