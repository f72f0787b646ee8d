# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Attention in which a few tokens together come out as one after another would.

Drafts are verified in one pass. Its logits have to be those of single steps to the last bit, or
greedy decoding would say something else where two words are about equally likely; and a product's
rounding depends on how many rows it has. So a few tokens attend one by one.
"""

from __future__ import annotations

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from neuron_chunk_ros.engine.products import FEW

NAME = 'neuron_chunk_one_by_one'


def use(config) -> None:
    """Have the decoder of this text configuration attend so. Not where it was told otherwise."""
    if config._attn_implementation == 'sdpa':
        config._attn_implementation = NAME


def _attend(module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
            attention_mask: torch.Tensor | None, **kwargs) -> tuple[torch.Tensor, None]:
    """See transformers' sdpa_attention_forward."""
    tokens, first = query.shape[2], key.shape[2] - query.shape[2]
    if not 1 < tokens <= FEW or not _is_causal(attention_mask, first):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return torch.cat([
        sdpa_attention_forward(module, query[:, :, at:at + 1], key[:, :, :first + at + 1],
                               value[:, :, :first + at + 1], None, **kwargs)[0]
        for at in range(tokens)], dim=1), None


def _is_causal(mask: torch.Tensor | None, first: int) -> bool:
    """Whether each token may look at all up to itself, and at none behind."""
    if mask is None or mask.dtype != torch.bool or mask.shape[:2] != (1, 1):
        return False
    wanted = torch.ones_like(mask[0, 0]).tril(first)
    return torch.equal(mask[0, 0], wanted)


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS['sdpa'])
