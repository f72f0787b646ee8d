# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The keys' and values' memory, against transformers' own growing cache."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from neuron_chunk_ros.engine.kv_cache import KvMemory, kv_shape
from neuron_chunk_ros.engine.memory_plan import kv_bytes

TEXT = SimpleNamespace(num_hidden_layers=2, num_key_value_heads=3, hidden_size=32,
                       num_attention_heads=4)
CONTEXT = 40


def states(tokens):
    return torch.randn(1, 3, tokens, 8), torch.randn(1, 3, tokens, 8)


def test_the_size_is_what_the_plan_counts():
    memory = KvMemory(TEXT, CONTEXT, torch.bfloat16, 'cpu')
    assert kv_shape(TEXT) == (2, 3, 8) and memory.head == 8
    assert sum(t.nbytes for t in (*memory.keys, *memory.values)) == kv_bytes(
        TEXT, CONTEXT, torch.bfloat16)
    assert kv_shape(SimpleNamespace(**vars(TEXT), head_dim=16)) == (2, 3, 16)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 4),
       st.integers(0, 9))
def test_it_holds_what_a_growing_cache_holds(lengths, base, cut):
    """Updates, lengths and masks; a cut in the middle; and nothing outside is touched."""
    memory = KvMemory(TEXT, CONTEXT, torch.float32, 'cpu')
    for tensor in (*memory.keys, *memory.values):
        tensor.fill_(7.0)
    cache, want = memory.cache(base), DynamicCache()
    for tokens in lengths:
        for layer in range(2):
            assert cache.get_mask_sizes(tokens, layer) == want.get_mask_sizes(tokens, layer)
            keys, values = states(tokens)
            for got, kept in zip(cache.update(keys, values, layer),
                                 want.update(keys, values, layer), strict=True):
                assert torch.equal(got, kept)
                assert got.untyped_storage().data_ptr() in {
                    t.untyped_storage().data_ptr() for t in (*memory.keys, *memory.values)}
        assert cache.get_seq_length() == want.get_seq_length()
    cut = min(cut, sum(lengths) - 1)
    cache.truncate(sum(lengths) - cut)
    want.crop(-cut)
    keys, values = states(1)
    for layer in range(2):
        for got, kept in zip(cache.update(keys, values, layer),
                             want.update(keys, values, layer), strict=True):
            assert torch.equal(got, kept)
    assert cache.get_max_length() == CONTEXT - base
    for tensor in (*memory.keys, *memory.values):
        assert (tensor[:, :, :base] == 7).all()
        assert (tensor[:, :, base + sum(lengths) + 1:] == 7).all()


def test_a_cut_mends_a_pass_that_ended_between_two_layers():
    cache = KvMemory(TEXT, CONTEXT, torch.float32, 'cpu').cache()
    for layer in range(2):
        cache.update(*states(5), layer)
    cache.update(*states(3), 0)
    cache.truncate(5)
    assert [layer.length for layer in cache.layers] == [5, 5]
    cache.truncate(9)
    assert cache.get_seq_length() == 5


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_holes_close_and_open_again(data):
    """Moving blocks together and back, against lists; one block at a time is copied."""
    memory = KvMemory(TEXT, CONTEXT, torch.float32, 'cpu')
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=8))
    stays = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    number = torch.arange(CONTEXT, dtype=torch.float32)
    for tensor in (*memory.keys, *memory.values):
        tensor.copy_(number[None, None, :, None].expand_as(tensor))
    at, to, moves, kept, gone = 0, 0, [], [], []
    for size, stay in zip(sizes, stays, strict=True):
        if stay:
            moves.append((at, to, size))
            kept += range(at, at + size)
            to += size
        else:
            gone.append((at, memory.take(at, size)))
        at += size
    memory.move(moves)
    for tensor in (*memory.keys, *memory.values):
        assert tensor[0, 0, :to, 0].tolist() == kept
    memory.move([(there, here, size) for here, there, size in reversed(moves)])
    for place, taken in gone:
        memory.put(place, taken)
    for tensor in (*memory.keys, *memory.values):
        assert torch.equal(tensor[0, 0, :at, 0], number[:at])


def test_more_than_fits_is_an_error():
    cache = KvMemory(TEXT, CONTEXT, torch.float32, 'cpu').cache(30)
    with pytest.raises(RuntimeError):
        cache.update(*states(11), 0)
