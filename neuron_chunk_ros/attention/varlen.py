# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Regrouping by sequences of any length, for GPUs: FlashAttention's kernel takes images as they
are, nothing is padded and there is no mask.

Every image (a Sink head's every block) is a sequence whose queries are the last of its keys, which
is the one order that kernel's causal form knows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from neuron_chunk_ros.attention.regrouping import Regrouping
from neuron_chunk_ros.attention.templates import BLOCK, INTRA, SINK, images

_AMPERE = (8, 0)  # the oldest GPUs whose kernel there is


@dataclass(frozen=True)
class _Sequences:
    queries: torch.Tensor        # int64, of the new tokens, one sequence after another
    seen: torch.Tensor           # int64, of all tokens, likewise
    query_begins: torch.Tensor   # int32 [sequences + 1]
    seen_begins: torch.Tensor    # int32 [sequences + 1]
    most_queries: int
    most_seen: int

    @classmethod
    def of(cls, queries: list[range], seen: list[list[int]], device: torch.device) -> _Sequences:
        def begins(lengths: list[int]) -> torch.Tensor:
            return torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)

        def flat(parts: list) -> torch.Tensor:
            return torch.tensor([token for part in parts for token in part], dtype=torch.int64,
                                device=device)
        some, more = [len(part) for part in queries], [len(part) for part in seen]
        return cls(flat(queries), flat(seen), begins(some), begins(more),
                   max(some, default=0), max(more, default=0))


class Variable(Regrouping):
    """Regrouping whose images go through `torch.nn.attention.varlen`."""

    kernel: Callable[..., torch.Tensor] | None = None  # None: torch's own

    def __init__(self, *args):
        """See Regrouping."""
        super().__init__(*args)
        self._sequences: dict[tuple, _Sequences] = {}

    @staticmethod
    def works(query: torch.Tensor) -> bool:
        """Whether torch has the kernel for such queries, on their GPU."""
        if (query.device.type != 'cuda' or query.dtype not in (torch.float16, torch.bfloat16)
                or query.shape[-1] % 8 or query.shape[-1] > 256
                or torch.cuda.get_device_capability(query.device) < _AMPERE):
            return False
        try:
            from torch.nn.attention.varlen import varlen_attn
        except ImportError:
            return False
        return 'window_size' in inspect.signature(varlen_attn).parameters

    def _images(self, kind: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
                scale: float | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        parts = self._parts(kind, query.device)
        if not len(parts.queries):
            return
        kernel = self.kernel
        if kernel is None:
            from torch.nn.attention.varlen import varlen_attn as kernel

        def taken(values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            return values[0].index_select(1, tokens).transpose(0, 1).contiguous()

        found = kernel(
            taken(query, parts.queries), taken(key, parts.seen), taken(value, parts.seen),
            parts.query_begins, parts.seen_begins, parts.most_queries, parts.most_seen,
            scale=scale, window_size=(-1, 0), enable_gqa=True)
        yield parts.queries, found.transpose(0, 1)

    def _parts(self, kind: int, device: torch.device) -> _Sequences:
        key = kind, device
        if key not in self._sequences:
            queries, seen = [], []
            for start, segment, sinks in images(self._table, self._first):
                end, size = start + segment.tokens, BLOCK if kind == SINK else segment.tokens
                for low in range(start, end, size):
                    high = min(low + size, end)
                    if high > self._first:
                        near = max(low - size, start) if kind == SINK else low
                        queries.append(range(max(low, self._first) - self._first,
                                             high - self._first))
                        seen.append([*([] if kind == INTRA else sinks), *range(near, high)])
            self._sequences[key] = _Sequences.of(queries, seen, device)
        return self._sequences[key]
