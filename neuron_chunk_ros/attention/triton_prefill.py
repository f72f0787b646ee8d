# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Attention by head class on a GPU: one kernel for all heads, which visits only blocks of keys
that somebody in a block of queries may see.

Softmax as it goes (Dao, FlashAttention-2, algorithm 1). Imported only where there is Triton;
TRITON_INTERPRET=1 runs it on a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from neuron_chunk_ros.attention.segments import SegmentTable
from neuron_chunk_ros.attention.templates import BLOCK, DENSE, INTRA, NAMES, SINK, images

_SINK_TOKEN = 1 << 30  # in a token's mark; below it, the number of its image plus one


@triton.jit
def _prefill(query, key, value, out, marks, places, classes, lists, begins, scale, first, new,
             shared, q_head, q_token, k_head, k_token, v_head, v_token, o_head, o_token,
             blocks, width: tl.constexpr, padded: tl.constexpr, rows: tl.constexpr,
             columns: tl.constexpr, wide: tl.constexpr, local: tl.constexpr):
    number, head = tl.program_id(0), tl.program_id(1)
    kind = tl.load(classes + head)
    at = number * rows + tl.arange(0, rows)       # queries
    token = first + at
    there = at < new
    channel = tl.arange(0, padded)
    inside = channel < width
    q = tl.load(query + head.to(tl.int64) * q_head + at[:, None] * q_token + channel[None],
                mask=there[:, None] & inside[None], other=0.0)
    mine = tl.load(marks + token, mask=there, other=0) & 0x3FFFFFFF
    block = tl.load(places + token, mask=there, other=0) // local
    best = tl.full([rows], -float('inf'), tl.float32)
    total = tl.zeros([rows], tl.float32)
    sums = tl.zeros([rows, padded], tl.float32)
    pair = (head // shared).to(tl.int64)
    begin = tl.load(begins + kind * blocks + number)
    end = tl.load(begins + kind * blocks + number + 1)
    for step in range(begin, end):
        seen = tl.load(lists + step) * columns + tl.arange(0, columns)
        known = seen < first + new
        k = tl.load(key + pair * k_head + seen[None] * k_token + channel[:, None],
                    mask=known[None] & inside[:, None], other=0.0)
        v = tl.load(value + pair * v_head + seen[:, None] * v_token + channel[None],
                    mask=known[:, None] & inside[None], other=0.0)
        mark = tl.load(marks + seen, mask=known, other=0)
        theirs = mark & 0x3FFFFFFF
        allowed = (kind == 0) | (mine[:, None] == 0)
        own = mine[:, None] == theirs[None]
        near = block[:, None] - (tl.load(places + seen, mask=known, other=0) // local)[None] <= 1
        allowed = allowed | (own & ((kind != 3) | near))
        sink = (mark >= 0x40000000)[None] & (theirs[None] != mine[:, None])
        allowed = allowed | (sink & (kind != 2))
        allowed = allowed & (seen[None] <= token[:, None]) & known[None]
        if wide:
            scores = tl.dot(q.to(tl.float32), k.to(tl.float32)) * scale
        else:
            scores = tl.dot(q, k) * scale
        scores = tl.where(allowed, scores, -float('inf'))
        higher = tl.maximum(best, tl.max(scores, 1))
        # A row that has seen nothing yet stays at nothing.
        base = tl.where(higher == -float('inf'), 0.0, higher)
        fade = tl.exp(best - base)
        weights = tl.exp(scores - base[:, None])
        total = total * fade + tl.sum(weights, 1)
        if wide:
            more = tl.dot(weights, v.to(tl.float32))
        else:
            more = tl.dot(weights.to(v.dtype), v)
        sums = sums * fade[:, None] + more
        best = higher
    sums = sums / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out + head.to(tl.int64) * o_head + at[:, None] * o_token + channel[None],
             sums.to(out.dtype.element_ty), mask=there[:, None] & inside[None])


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, table: SegmentTable,
           classes: Sequence[int], scale: float | None = None, rows: int = 64, columns: int = 64
           ) -> torch.Tensor:
    """Return what regrouping.attend returns; its parameters, and the sizes of blocks.

    The last dimension of every tensor must be contiguous.
    """
    heads, new, width = query.shape[1:]
    tokens = key.shape[2]
    if table.tokens != tokens or len(classes) != heads or heads % key.shape[1]:
        raise ValueError(f'{table.tokens} tokens in segments and {len(classes)} classes for keys '
                         f'of {tokens} tokens and {heads} heads')
    first, blocks = tokens - new, -(-new // rows)
    marks, places = _marks(table)
    lists, begins = _visits(table, first, rows, columns, marks)
    device = query.device

    def there(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(device)

    out = torch.empty_like(query)
    _prefill[blocks, heads](
        query, key, value, out, there(marks), there(places),
        there(np.array(classes, np.int32)), there(lists), there(begins),
        width ** -0.5 if scale is None else scale, first, new, heads // key.shape[1],
        query.stride(1), query.stride(2), key.stride(1), key.stride(2), value.stride(1),
        value.stride(2), out.stride(1), out.stride(2), blocks, width,
        max(16, triton.next_power_of_2(width)), rows, columns,
        # The interpreter has no products of bfloat16.
        os.environ.get('TRITON_INTERPRET') == '1', BLOCK)
    return out


def _marks(table: SegmentTable) -> tuple[np.ndarray, np.ndarray]:
    """Return of each token its mark, and its place in its image: int32 [tokens] each."""
    marks, places = np.zeros(table.tokens, np.int32), np.zeros(table.tokens, np.int32)
    number, sinks = 0, []
    for start, segment in table:
        if segment.image:
            number += 1
            marks[start:start + segment.tokens] = number
            places[start:start + segment.tokens] = np.arange(segment.tokens)
            sinks += [start + at for at in segment.text]
    *_, last = [*images(table, 0), (0, None, [])]
    leading = next((found for _, _, found in images(table, 0)), last[2] if last else [])
    marks[[*leading, *sinks]] |= _SINK_TOKEN
    return marks, places


def _visits(table: SegmentTable, first: int, rows: int, columns: int, marks: np.ndarray
            ) -> tuple[np.ndarray, np.ndarray]:
    """Return the blocks of keys to visit, one block of queries of one class after another.

    :return: int32 [visits], and where those of (class, block) begin: int32 [classes * blocks + 1].
    """
    tokens = table.tokens
    blocks = -(-(tokens - first) // rows)
    sinks = np.flatnonzero(marks & _SINK_TOKEN) // columns
    starts = np.zeros(tokens, np.int64)   # of the own image; text sees everything from 0 on
    for start, segment in table:
        if segment.image:
            starts[start:start + segment.tokens] = start
    text = (marks & (_SINK_TOKEN - 1)) == 0
    lists, begins = [], [0]
    for kind in range(len(NAMES)):
        for number in range(blocks):
            begin, end = first + number * rows, min(first + (number + 1) * rows, tokens)
            if kind == DENSE or text[begin:end].any():
                low = 0
            elif kind == SINK:
                # Of an image's own tokens, from the block before the query's on.
                at = np.arange(begin, end) - starts[begin:end]
                low = int((starts[begin:end] + np.maximum(at // BLOCK - 1, 0) * BLOCK).min())
            else:
                low = int(starts[begin:end].min())
            visits = set(range(low // columns, (end - 1) // columns + 1))
            if kind != INTRA and low:
                visits |= set(sinks[sinks <= (end - 1) // columns].tolist())
            lists += sorted(visits)
            begins.append(len(lists))
    return np.array(lists, np.int32), np.array(begins, np.int32)
