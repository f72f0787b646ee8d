# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Each head sees what its class lets it: held against the mask, computed in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_attention import passes, reference, tables

from neuron_chunk_ros.attention.regrouping import attend
from neuron_chunk_ros.attention.segments import Segment, SegmentTable
from neuron_chunk_ros.attention.templates import (
    BLOCK,
    DENSE,
    INTRA,
    INTRA_SINK,
    NAMES,
    SINK,
    allowed,
    density,
)


@settings(max_examples=150, deadline=None)
@given(passes())
def test_regrouped_is_masked(drawn):
    want = reference(*drawn, 0.3)
    torch.testing.assert_close(attend(*drawn, 0.3).double(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_other_types_of_numbers(dtype):
    table = SegmentTable([Segment(9), *[Segment(50, True, (0, 49))] * 3, Segment(7)])
    query = torch.randn(1, 8, table.tokens, 32).to(dtype)
    key, value = (torch.randn(1, 4, table.tokens, 32).to(dtype) for _ in range(2))
    classes = [DENSE, SINK, INTRA, INTRA_SINK] * 2
    got = attend(query, key, value, table, classes)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), reference(query, key, value, table, classes,
                                                       32 ** -0.5), rtol=0.02, atol=0.02)


@settings(max_examples=60, deadline=None)
@given(table=tables(), template=st.integers(0, 3), part=st.floats(0, 1))
def test_density_counts_what_is_seen(table, template, part):
    first = min(table.tokens - 1, round(part * table.tokens))
    mask, dense = allowed(table, template, first), allowed(table, DENSE, first)
    assert density(table, template, first) == pytest.approx(float(mask.sum() / dense.sum()))
    assert bool((dense | ~mask).all()), 'nobody sees what comes behind'
    assert bool(mask[torch.arange(len(mask)), torch.arange(first, table.tokens)].all())


def test_classes_see_what_their_names_say():
    table = SegmentTable([Segment(3), Segment(70, True, (0, 69)), Segment(70, True, (0, 69)),
                          Segment(2)])
    last = 3 + 70 + 69 - 1   # of the second image, one ahead of its delimiter
    def seen(kind):
        return set(np.flatnonzero(allowed(table, kind, 0)[last]).tolist())
    own, sinks = set(range(73, last + 1)), {0, 1, 2, 3, 72}
    assert seen(DENSE) == set(range(last + 1))
    assert seen(INTRA) == own and seen(INTRA_SINK) == own | sinks
    assert seen(SINK) == sinks | set(range(73 + BLOCK, last + 1))
    for kind in range(4):  # text behind the images sees everything
        assert set(np.flatnonzero(allowed(table, kind, 0)[-1])) == set(range(table.tokens))
    assert len(NAMES) == 4


@pytest.mark.parametrize('change', [{'classes': [0]}, {'table': SegmentTable([Segment(4)])}])
def test_what_does_not_fit_is_refused(change):
    given = {'table': SegmentTable([Segment(5)]), 'classes': [0, 0]} | change
    query = torch.zeros(1, 2, 5, 8)
    with pytest.raises(ValueError, match='tokens in segments'):
        attend(query, query, query, **given)
