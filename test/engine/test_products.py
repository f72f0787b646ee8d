# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sums of products over pieces of rows against the plain product."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuron_chunk_ros import _native
from neuron_chunk_ros.engine import products
from neuron_chunk_ros.engine.products import STEP, Scratch, Sum
from neuron_chunk_ros.storage.bundle import Group, Member
from neuron_chunk_ros.storage.row_format import FORMATS

SCRATCH = Scratch()


def group(rows, columns, dtype):
    """Return a group's description."""
    name = {torch.bfloat16: 'bfloat16', torch.float16: 'float16', torch.float32: 'float32'}[dtype]
    return Group('g', 'f', 't', 0, rows, columns, FORMATS[name].row_bytes([columns]), name,
                 (Member('m', columns),), '')


@st.composite
def pieces(draw):
    """Draw runs of rows, cut into pieces; every run apart from the one before."""
    lengths = draw(st.lists(st.integers(1, 10 * STEP), min_size=1, max_size=6))
    gaps = [draw(st.integers(0, 5)) for _ in lengths]
    first, found = 0, []
    for gap, length in zip(gaps, lengths, strict=True):
        found.append((first + gap, length))
        first += gap + length + 1
    cuts = sorted(draw(st.sets(st.integers(1, len(found)), max_size=3)) | {len(found)})
    parts = [np.array(found[a:b], np.int64) for a, b in zip([0, *cuts], cuts, strict=False)]
    return first + draw(st.integers(0, 3)), [part for part in parts if len(part)]


TYPES = [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32),
         (torch.bfloat16, torch.float32), (torch.float16, torch.float32),
         (torch.float32, torch.bfloat16)]


@given(pieces(), st.sampled_from(TYPES), st.sampled_from([1, 3, 8, 9, 40]), st.booleans())
def test_pieces_add_up_to_the_plain_product(drawn, types, tokens, room):
    """Also beside memory full of numbers that are none, and over what an earlier sum left.

    Widened in several tiles, the last of which may be padding alone.
    """
    rows, parts = drawn
    stored, dtype = types
    generator = torch.Generator().manual_seed(rows)
    inputs = torch.randn(tokens, rows, generator=generator).to(dtype)
    weights = torch.randn(rows, 50, generator=generator).to(stored)
    total = Sum(inputs, group(rows, 50, stored), SCRATCH)
    want = torch.zeros(tokens, 50, dtype=torch.float64)
    for part in parts:
        index = torch.cat([torch.arange(first, first + n) for first, n in part.tolist()])
        count = len(index)
        behind = STEP if room else 0
        memory = torch.full((count + behind, 50), float('nan'), dtype=stored)
        memory[:count] = weights[index]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, 'TILE_BYTES', 4 * 50 * 24)  # tiles of 24 rows
            total.add(part, memory[:count], behind)
        want += inputs[:, index].double() @ weights[index].double()
    scale = 1 + want.abs().max()
    # Each piece that is added rounds once more, and each tile of what is widened.
    adds = sum(1 if stored == dtype else -(-int(part[:, 1].sum()) // 24) for part in parts)
    allowed = (1 + adds) * 2 ** -8 if dtype == torch.bfloat16 else 1e-5
    assert (total.result().double() - want).abs().max() <= allowed * scale


@pytest.mark.parametrize('tokens', [1, 20])
def test_nothing_adds_up_to_nothing(tokens):
    inputs, made = torch.ones(tokens, 4), group(4, 3, torch.float32)
    Sum(inputs, made, SCRATCH).add(np.array([[0, 4]]), torch.ones(4, 3))
    assert Sum(inputs, made, SCRATCH).result().abs().max() == 0


@given(st.integers(1, 5), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=6),
       st.integers(0, 4), st.sampled_from([torch.bfloat16, torch.float32]), st.booleans())
def test_columns_are_gathered(tokens, runs, behind, dtype, transposed):
    inputs = torch.randn(40, tokens).t() if transposed else torch.randn(tokens, 48)[:, :40]
    inputs = inputs.to(dtype)
    rows = np.array(runs, np.int64).reshape(-1, 2)
    index = [i for first, count in runs for i in range(first, first + count)]
    found = products._columns(inputs, rows, len(index) + behind)
    assert torch.equal(found[:, :len(index)], inputs[:, index])
    assert found.shape == (tokens, len(index) + behind)
    if len(runs) != 1:
        assert not found[:, len(index):].any()


@pytest.mark.parametrize('rows, message', [
    ([[3, 2]], 'outside'), ([[-1, 1]], 'outside'), ([[0, -1]], 'outside'),
    ([[2 ** 62, 2 ** 62]], 'outside'), ([[0, 3], [0, 3]], 'fit')])
def test_no_gathering_beyond_either_matrix(rows, message):
    source, target = np.zeros((2, 4), np.float32), np.zeros((2, 5), np.float32)
    with pytest.raises(ValueError, match=message):
        _native.gather_columns(source.ctypes.data, 16, 4, target.ctypes.data, 20, 5, 2, 4,
                               np.array(rows, np.int64))
