# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Attention by head class: images of a size as one batch, each with its sinks' keys joined.

What is left out isn't computed; a mask over everything would compute it and throw it away. What a
batch needs (which keys, which of them a query may see) is the same in all layers of a pass and
worked out once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from neuron_chunk_ros.attention.segments import SegmentTable
from neuron_chunk_ros.attention.templates import BLOCK, DENSE, INTRA, SINK, images

# An image's queries go in so many parts, of at least so many tokens.
_PARTS, _SMALLEST = 4, 32
_MOST = 16  # images of a batch: those with fewer sinks are padded to those with most


@dataclass(frozen=True)
class _Batch:
    """Queries that go together, and what they see."""

    queries: torch.Tensor    # int64 [n, q], of the new tokens
    seen: torch.Tensor       # int64 [n, k], of all tokens
    allowed: torch.Tensor    # bool [n, 1, q, k]
    wanted: torch.Tensor | None = None  # bool [n, q]: others fill up; None: all

    def ready(self, like: torch.Tensor) -> _Batch:
        """Return it on a tensor's device, `allowed` as what is added to scores of its dtype."""
        device = like.device
        bias = torch.zeros(self.allowed.shape, dtype=like.dtype).masked_fill(
            ~self.allowed, -torch.inf)
        return _Batch(self.queries.to(device), self.seen.to(device), bias.to(device),
                      None if self.wanted is None else self.wanted.to(device))


class Regrouping:
    """One pass: its segments, and how many of their tokens were there before."""

    def __init__(self, table: SegmentTable, first: int):
        self._table, self._first, self._tokens = table, first, table.tokens
        self._batches: dict[tuple, list[_Batch]] = {}

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
               classes: Sequence[int], scale: float | None = None) -> torch.Tensor:
        """See `attend`."""
        heads, tokens = query.shape[1], key.shape[2]
        if self._tokens != tokens or len(classes) != heads or heads % key.shape[1]:
            raise ValueError(f'{self._tokens} tokens in segments and {len(classes)} classes for '
                             f'keys of {tokens} tokens and {heads} heads')
        shared, out = heads // key.shape[1], torch.empty_like(query)

        def some(kinds: set[int]) -> tuple | None:
            """Return the heads of these classes with their queries, keys and values."""
            mine = [head for head, kind in enumerate(classes) if kind in kinds]
            if len(mine) == heads:
                return slice(None), query, key, value
            pairs = [head // shared for head in mine]
            return (mine, query[:, mine], key[:, pairs], value[:, pairs]) if mine else None

        if chosen := some({DENSE}):
            which, *parts = chosen
            out[:, which] = _behind(*parts, scale)
        kinds = set(classes) - {DENSE}
        if chosen := some(kinds):
            which, mine, keys, values = chosen
            for start, segment in self._table:
                begin, end = max(start, self._first), start + segment.tokens
                if not segment.image and begin < end:
                    here = slice(begin - self._first, end - self._first)
                    out[:, which, here] = _behind(mine[:, :, here], keys[:, :, :end],
                                                  values[:, :, :end], scale)
        for kind in sorted(kinds):
            which, mine, keys, values = some({kind})
            for at, found in self._images(kind, mine, keys, values, scale):
                if which == slice(None):
                    out[0].index_copy_(1, at, found)
                else:
                    out[0, torch.tensor(which, device=at.device)[:, None], at] = found
        return out

    def _images(self, kind: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                scale: float | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (int64 [n] of the new tokens, [heads, n, width] of what they found) of images."""
        for batch in self._of(kind, query):
            mine, keys, values = (_taken(query, batch.queries), _taken(key, batch.seen),
                                  _taken(value, batch.seen))
            if batch.wanted is None:
                found = _in_parts(mine, keys, values, batch.allowed, scale)
                yield batch.queries.flatten(), found.transpose(0, 1).flatten(1, 2)
            else:
                found = functional.scaled_dot_product_attention(
                    mine, keys, values, attn_mask=batch.allowed, scale=scale, enable_gqa=True)
                yield (batch.queries[batch.wanted],
                       found.transpose(1, 2)[batch.wanted].transpose(0, 1))

    def _of(self, kind: int, like: torch.Tensor) -> list[_Batch]:
        key = kind, like.dtype, like.device
        if key not in self._batches:
            made = self._local() if kind == SINK else self._whole(kind)
            self._batches[key] = [batch.ready(like) for batch in made]
        return self._batches[key]

    def _whole(self, kind: int) -> list[_Batch]:
        """Return images of a size, and new in the same part, together."""
        alike: dict[tuple[int, int], list[tuple[int, list[int]]]] = {}
        for start, segment, sinks in images(self._table, self._first):
            new = start + segment.tokens - max(start, self._first)
            alike.setdefault((segment.tokens, new), []).append(
                (start, [] if kind == INTRA else sinks))
        found = []
        for (tokens, new), members in alike.items():
            for at in range(0, len(members), _MOST):
                some = members[at:at + _MOST]
                most = max(len(sinks) for _, sinks in some)
                starts = torch.tensor([start for start, _ in some])
                own = starts[:, None] + torch.arange(tokens)
                ahead = torch.tensor([[*sinks, *[0] * (most - len(sinks))] for _, sinks in some]
                                     ).long().reshape(len(some), most)
                known = torch.arange(most) < torch.tensor([len(one) for _, one in some])[:, None]
                causal = torch.ones(new, tokens, dtype=torch.bool).tril(tokens - new)
                allowed = torch.cat([known[:, None].expand(-1, new, -1),
                                     causal.expand(len(some), -1, -1)], dim=2)
                queries = own[:, tokens - new:] - self._first
                found.append(_Batch(queries, torch.cat([ahead, own], dim=1), allowed[:, None]))
        return found

    def _local(self) -> list[_Batch]:
        """Return all blocks of an image together: each sees the sinks, itself, the one before."""
        found = []
        at = torch.arange(BLOCK)
        for start, segment, sinks in images(self._table, self._first):
            skip = max(self._first - start, 0) // BLOCK
            blocks = torch.arange(skip, -(-segment.tokens // BLOCK))
            places = blocks[:, None] * BLOCK + at                       # in the image
            near = (blocks[:, None] - 1) * BLOCK + torch.arange(2 * BLOCK)
            there = (near >= 0) & (near < segment.tokens)
            allowed = there[:, None] & (near[:, None] <= places[:, :, None])
            first = torch.tensor(sinks, dtype=torch.long).expand(len(blocks), -1)
            allowed = torch.cat([torch.ones(*places.shape, len(sinks), dtype=torch.bool),
                                 allowed], dim=2)
            queries = start + places - self._first
            wanted = (queries >= 0) & (places < segment.tokens)
            # What fills up sees something, so that no softmax is over nothing.
            allowed |= ~wanted[..., None]
            new = self._tokens - self._first
            found.append(_Batch(queries.clamp(0, new - 1), torch.cat(
                [first, (start + near).clamp(start, start + segment.tokens - 1)], dim=1),
                allowed[:, None], wanted))
        return found


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
    return Regrouping(table, key.shape[2] - query.shape[2]).attend(query, key, value, classes,
                                                                   scale)


def _taken(values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return rows of [1, heads, tokens, width] by int64 [n, k]: [n, heads, k, width]."""
    return values[0].index_select(1, tokens.flatten()).unflatten(1, tokens.shape).transpose(0, 1)


def _in_parts(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, allowed: torch.Tensor,
              scale: float | None) -> torch.Tensor:
    """Attend, a part of the queries at a time: the first parts need not look at the last keys.

    Torch's kernel leaves out what a causal mask forbids in pieces of 512 keys, more than an image
    has; and what it computes for nothing costs as much as anything else.
    """
    new = query.shape[2]
    ahead, step = key.shape[2] - new, max(-(-new // _PARTS), _SMALLEST)
    return torch.cat([functional.scaled_dot_product_attention(
        query[:, :, at:at + step], key[:, :, :ahead + at + step], value[:, :, :ahead + at + step],
        attn_mask=allowed[:, :, at:at + step, :ahead + at + step], scale=scale, enable_gqa=True)
        for at in range(0, new, step)], dim=2)


def _behind(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
            ) -> torch.Tensor:
    """Attend causally; the queries are of the last of the keys' tokens."""
    more, mask = key.shape[2] - query.shape[2], None
    if more and query.shape[2] > 1:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool,
                          device=query.device).tril(more)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=not more, scale=scale, enable_gqa=True)
