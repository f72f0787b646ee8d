# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What every kernel of attention by class is held against."""

import torch
from hypothesis import strategies as st

from neuron_chunk_ros.attention.segments import Segment, SegmentTable
from neuron_chunk_ros.attention.templates import BLOCK, allowed


@st.composite
def tables(draw, most=6, largest=3 * BLOCK + 5):
    """Draw prompts: text ahead, images with text in them, text between and behind."""
    segments = [Segment(draw(st.integers(0, 90)))]
    for _ in range(draw(st.integers(0, most))):
        tokens = draw(st.integers(1, largest))
        text = draw(st.sets(st.integers(0, tokens - 1), max_size=3))
        segments.append(Segment(tokens, True, tuple(sorted(text))))
        if draw(st.booleans()):
            segments.append(Segment(draw(st.integers(0, 9))))
    segments.append(Segment(draw(st.integers(0, 12))))
    table = SegmentTable()
    table.append(segments)
    if not table.tokens:
        table.append([Segment(1)])
    return table


def reference(query, key, value, table, classes, scale):
    """Each head by itself, its mask written out, in float64."""
    first, shared = key.shape[2] - query.shape[2], query.shape[1] // key.shape[1]
    outs = []
    for head, kind in enumerate(classes):
        scores = query[0, head].double() @ key[0, head // shared].double().T * scale
        scores = scores.masked_fill(~allowed(table, kind, first), -torch.inf)
        outs.append(scores.softmax(-1) @ value[0, head // shared].double())
    return torch.stack(outs)[None]


@st.composite
def passes(draw):
    """Draw (query, key, value, table, classes) of a pass, some tokens of which are new."""
    table, shared = draw(tables()), draw(st.sampled_from([1, 2, 3]))
    pairs = draw(st.integers(1, 3))
    heads, tokens = shared * pairs, table.tokens
    classes = draw(st.lists(st.integers(0, 3), min_size=heads, max_size=heads))
    new = max(1, round(draw(st.floats(0, 1)) * tokens))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2 ** 32)))
    query = torch.randn(1, heads, new, 16, generator=generator)
    key, value = (torch.randn(1, pairs, tokens, 16, generator=generator) for _ in range(2))
    return query, key, value, table, classes
