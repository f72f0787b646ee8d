# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sequences given to the variable-length kernel: held against the mask, computed in float64."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from masked_attention import passes, reference

from neuron_chunk_ros.attention.segments import Segment, SegmentTable
from neuron_chunk_ros.attention.templates import DENSE, INTRA, INTRA_SINK, SINK
from neuron_chunk_ros.attention.varlen import Variable


def plainly(query, key, value, query_begins, key_begins, most_queries, most_keys, *, scale,
            window_size, enable_gqa):
    """What torch.nn.attention.varlen.varlen_attn promises; that has no kernel for CPUs."""
    assert window_size == (-1, 0)
    out, shared = torch.empty_like(query), query.shape[1] // key.shape[1]
    spans = [begins.tolist() for begins in (query_begins, key_begins)]
    assert max(b - a for a, b in pairwise(spans[0])) == most_queries
    assert max(b - a for a, b in pairwise(spans[1])) == most_keys
    assert spans[0][-1] == len(query) and spans[1][-1] == len(key)
    for (low, high), (first, last) in zip(*map(pairwise, spans), strict=True):
        new, tokens = high - low, last - first
        seen = torch.ones(new, tokens, dtype=torch.bool).tril(tokens - new)
        for head in range(query.shape[1]):
            scores = query[low:high, head] @ key[first:last, head // shared].T * scale
            out[low:high, head] = (scores.masked_fill(~seen, -torch.inf).softmax(-1)
                                   @ value[first:last, head // shared])
    return out


@settings(max_examples=100, deadline=None)
@given(passes())
def test_sequences_are_the_mask(drawn):
    query, key, value, table, classes = drawn
    variable = Variable(table, table.tokens - query.shape[2])
    variable.kernel = plainly
    want = reference(*drawn, 0.3)
    for _ in range(2):  # the second layer of a pass finds the sequences made
        got = variable.attend(query, key, value, classes, 0.3)
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


def test_not_for_a_cpu():
    assert not Variable.works(torch.zeros(1, 2, 3, 64, dtype=torch.bfloat16))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU: FlashAttention has no CPU form')
@pytest.mark.parametrize('width', [64, 80, 128])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_on_a_gpu(width, dtype):
    table = SegmentTable([Segment(9), *[Segment(150, True, (0, 149))] * 3, Segment(7)])
    query = torch.randn(1, 8, table.tokens, width).to(dtype)
    key, value = (torch.randn(1, 4, table.tokens, width).to(dtype) for _ in range(2))
    if not Variable.works(query.cuda()):
        pytest.skip('this GPU or torch has no variable-length kernel')
    classes = [DENSE, SINK, INTRA, INTRA_SINK] * 2
    for first in (0, 200):
        got = Variable(table, first).attend(query[:, :, first:].cuda(), key.cuda(), value.cuda(),
                                            classes, 0.1).cpu()
        want = reference(query[:, :, first:], key, value, table, classes, 0.1)
        torch.testing.assert_close(got.double(), want, rtol=0.02, atol=0.02)
