# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Attention by head class: each image by itself with its sinks' keys joined, no mask.

What is left out isn't computed; a mask would compute it and throw it away (a boolean one makes
SDPA slower than none). Where a query sees more keys than there are queries, as many queries that
nobody wants go ahead of it, so that the product stays plainly causal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from neuron_chunk_ros.attention.segments import SegmentTable
from neuron_chunk_ros.attention.templates import BLOCK, DENSE, INTRA, SINK, images


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, table: SegmentTable,
           classes: Sequence[int], scale: float | None = None) -> torch.Tensor:
    """Return softmax(query @ key.T) @ value, each head seeing what its class lets it.

    :param query: [1, heads, new tokens, width], of the table's last tokens.
    :param key, value: [1, key-value heads, tokens, width], of all tokens of the table; each is
        shared by neighbouring query heads.
    :param classes: of each query head, see templates.
    :return: [1, heads, new tokens, width].
    :raises ValueError: where table, classes and tensors don't fit.
    """
    heads, new, tokens = query.shape[1], query.shape[2], key.shape[2]
    if table.tokens != tokens or len(classes) != heads or heads % key.shape[1]:
        raise ValueError(f'{table.tokens} tokens in segments and {len(classes)} classes for keys '
                         f'of {tokens} tokens and {heads} heads')
    first, shared = tokens - new, heads // key.shape[1]
    out = torch.empty_like(query)
    dense = [head for head, kind in enumerate(classes) if kind == DENSE]
    if dense:
        chosen = _Heads(dense, shared, query, key, value)
        out[:, dense] = _behind(*chosen.of(0, new, slice(0, tokens)), scale)
    rest = [head for head, kind in enumerate(classes) if kind != DENSE]
    if not rest:
        return out
    others = _Heads(rest, shared, query, key, value)
    for start, segment in table:
        begin, end = max(start, first), start + segment.tokens
        if not segment.image and begin < end:
            out[:, rest, begin - first:end - first] = _behind(
                *others.of(begin - first, end - first, slice(0, end)), scale)
    for kind in sorted(set(classes) - {DENSE}):
        mine = [head for head, one in enumerate(classes) if one == kind]
        chosen = _Heads(mine, shared, query, key, value)
        for start, segment, sinks in images(table, first):
            begin, end = max(start, first), start + segment.tokens
            here = slice(begin - first, end - first)
            if kind == SINK:
                out[:, mine, here] = _local(chosen, begin - first, end - first, start, end, sinks,
                                            scale)
                continue
            seen = torch.tensor([*(() if kind == INTRA else sinks), *range(start, end)],
                                device=query.device)
            out[:, mine, here] = _behind(*chosen.of(begin - first, end - first, seen), scale)
    return out


class _Heads:
    """Some query heads, and the key-value heads they share."""

    def __init__(self, heads: list[int], shared: int, query, key, value):
        self._whole = len(heads) == query.shape[1]
        self._query = query if self._whole else query[:, heads]
        self._key, self._value = key, value
        self._pairs = [head // shared for head in heads]
        self.device = query.device

    def of(self, begin: int, end: int, seen) -> tuple[torch.Tensor, ...]:
        """Return queries number `begin` to `end`, and of some tokens keys and values.

        Of these one for each query head, or, where all heads are wanted, as they are.
        """
        query = self._query[:, :, begin:end]
        if isinstance(seen, slice):
            key, value = self._key[:, :, seen], self._value[:, :, seen]
        else:
            key, value = self._key.index_select(2, seen), self._value.index_select(2, seen)
        return (query, key, value) if self._whole else (
            query, key[:, self._pairs], value[:, self._pairs])


def _behind(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
            ) -> torch.Tensor:
    """Attend causally; the queries are of the last of the keys' tokens."""
    more = key.shape[2] - query.shape[2]
    if not more:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True,
                                                       scale=scale, enable_gqa=True)
    if query.shape[2] == 1:
        return functional.scaled_dot_product_attention(query, key, value, scale=scale,
                                                       enable_gqa=True)
    if more <= query.shape[2]:
        padded = functional.pad(query, (0, 0, more, 0))
        return functional.scaled_dot_product_attention(
            padded, key, value, is_causal=True, scale=scale, enable_gqa=True)[:, :, more:]
    # Few queries behind many keys: a mask of their own size is the smaller waste.
    mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool,
                      device=query.device).tril(more)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale,
                                                   enable_gqa=True)


def _local(heads: _Heads, begin: int, end: int, start: int, last: int, sinks: list[int],
           scale: float | None) -> torch.Tensor:
    """Attend to the sinks, the own block of an image and the one before it, all blocks at once.

    :param begin, end: the queries; they end where the image does.
    :param start, last: the image's tokens.
    """
    tokens, new = last - start, end - begin
    skip = (tokens - new) // BLOCK * BLOCK   # whole blocks whose queries are not wanted
    blocks = -(-(tokens - skip) // BLOCK)
    query, key, value = heads.of(begin, end, torch.tensor(
        [*sinks, *range(start, last)], device=heads.device))
    device, count, width = query.device, len(sinks), query.shape[-1]
    ahead = tokens - skip - new              # queries of the first block that are not wanted
    query = functional.pad(query, (0, 0, ahead, blocks * BLOCK - (tokens - skip)))
    query = query[0].unflatten(1, (blocks, BLOCK)).transpose(0, 1)   # [blocks, heads, BLOCK, d]

    def pairs(values: torch.Tensor) -> torch.Tensor:
        """Return sinks, the block before and the block: [blocks, heads, sinks + 2 BLOCK, d]."""
        own = functional.pad(values[0, :, count:], (0, 0, BLOCK, (-tokens) % BLOCK))
        own = own.unflatten(1, (-1, BLOCK))[:, skip // BLOCK:]
        both = torch.cat([own[:, :-1], own[:, 1:]], dim=2).transpose(0, 1)
        return torch.cat([values[0, :, :count].expand(blocks, -1, -1, -1), both], dim=2)

    at = torch.arange(BLOCK, device=device)
    mask = torch.ones(blocks, 1, BLOCK, count + 2 * BLOCK, dtype=torch.bool, device=device)
    mask[..., count + BLOCK:] = at[:, None] >= at[None]
    if not skip:
        mask[0, :, :, count:count + BLOCK] = False  # there is no block before the first
    out = functional.scaled_dot_product_attention(query, pairs(key), pairs(value),
                                                  attn_mask=mask, scale=scale, enable_gqa=True)
    out = out.transpose(0, 1).reshape(1, -1, blocks * BLOCK, width)
    return out[:, :, ahead:ahead + new]
