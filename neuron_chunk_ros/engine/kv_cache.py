# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The keys and values of all tokens in the context: one memory, reserved once, written in place.

A `KvCache` is what transformers sees of it: the tokens from a base on. A second cache with a base
behind the first one's tokens is an empty cache of its own that leaves the first as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from neuron_chunk_ros.attention.segments import Segment, SegmentTable


def kv_shape(text_config) -> tuple[int, int, int]:
    """Return (layers, key-value heads, width of a head) of a decoder."""
    head = getattr(text_config, 'head_dim', None) or (
        text_config.hidden_size // text_config.num_attention_heads)
    return text_config.num_hidden_layers, text_config.num_key_value_heads, head


class KvMemory:
    """Keys and values, by layer, [1, key-value heads, context, head width]."""

    def __init__(self, text_config, context: int, dtype: torch.dtype, device: str):
        """Reserve the memory for `context` tokens; the system hands it out as it is written."""
        layers, heads, head = kv_shape(text_config)
        self.context, self.head = context, head
        shape = (1, heads, context, head)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]

    def cache(self, base: int = 0) -> KvCache:
        """Return an empty cache whose tokens lie from `base` on."""
        return KvCache([_Layer(keys, values, base)
                        for keys, values in zip(self.keys, self.values, strict=True)])

    def take(self, start: int, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return a copy of some tokens' keys and values, by layer."""
        return [(keys[:, :, start:start + tokens].clone(),
                 values[:, :, start:start + tokens].clone())
                for keys, values in zip(self.keys, self.values, strict=True)]

    def put(self, start: int, taken: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Write back what `take` returned."""
        for keys, values, (old_keys, old_values) in zip(self.keys, self.values, taken,
                                                        strict=True):
            keys[:, :, start:start + old_keys.shape[2]] = old_keys
            values[:, :, start:start + old_keys.shape[2]] = old_values

    def move(self, blocks: Iterable[tuple[int, int, int]]) -> None:
        """Move blocks of (from, to, tokens), in this order.

        The copy that overlapping needs is one block of one layer at a time.
        """
        blocks = [block for block in blocks if block[0] != block[1]]
        for tensor in (*self.keys, *self.values):
            for start, to, tokens in blocks:
                tensor[:, :, to:to + tokens] = tensor[:, :, start:start + tokens].clone()


class KvCache(Cache):
    """A transformers cache over a KvMemory."""

    def __init__(self, layers: list[_Layer]):
        super().__init__(layers=layers)
        self.segments = SegmentTable()

    def truncate(self, tokens: int) -> None:
        """Forget all but the first `tokens` tokens, also after a pass that ended midway."""
        for layer in self.layers:
            layer.length = min(layer.length, tokens)
        self.segments.truncate(tokens)

    def hold(self, segments: Iterable[Segment]) -> None:
        """Count these tokens, whether they were there before or lie in the memory anew."""
        self.segments = SegmentTable()
        self.segments.append(segments)
        for layer in self.layers:
            layer.length = self.segments.tokens


class _Layer(CacheLayerMixin):
    """One layer's part: the tokens from `base` to `base + length`."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, base: int):
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.base, self.length = base, 0
        self.is_initialized = True

    def lazy_initialization(self, key_states, value_states) -> None:
        """Do nothing: the memory is there."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Add tokens [1, heads, tokens, width]; return the keys and values of all of them."""
        at = self.base + self.length
        end = at + key_states.shape[-2]
        self.keys[:, :, at:end] = key_states
        self.values[:, :, at:end] = value_states
        self.length = end - self.base
        return self.keys[:, :, self.base:end], self.values[:, :, self.base:end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (tokens there will be after the next pass, the first one's number)."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Return how many tokens there are."""
        return self.length

    def get_max_length(self) -> int:
        """Return how many tokens fit."""
        return self.keys.shape[2] - self.base

    get_max_cache_shape = get_max_length  # its name in earlier releases

    def reset(self) -> None:
        """Forget all tokens."""
        self.length = 0
