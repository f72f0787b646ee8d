# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Resident heads: the first rows of each group stay in memory, the tail is on flash.

In hot-cold order the first rows are those most often needed. They are contiguous, so nothing is
gathered, looked up or evicted, and they are multiplied while the tail is being read. Where the
order is the model's own, a head still saves the reading of its rows in every step that wants all.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping

import numpy as np
import torch

from neuron_chunk_ros.engine.products import STEP
from neuron_chunk_ros.engine.rows import held_as
from neuron_chunk_ros.storage.bundle import Group
from neuron_chunk_ros.storage.reader import Reader

_PAGE = 4096
_LONG_ROW = 16 * _PAGE
_COARSEST = 32  # a head's size goes in steps of at most one part in so many of the group


def split(groups: Mapping[str, Group], nbytes: int, compute: torch.dtype,
          wanted: Mapping[str, np.ndarray] | None = None) -> dict[str, int]:
    """Return how many rows of each group stay in memory, together at most `nbytes`.

    The next rows to be held are those that samples wanted most. Without samples each group gets
    the same share of its rows. A head ends
    on a page boundary, so that the tail begins on one, and where that is not too coarse holds a
    multiple of products.STEP rows.

    :param compute: of the products, and so of what is held (see rows.held_as).
    :param wanted: by group, how many samples wanted each row, in the order on flash.
    """
    held = {name: _held_bytes(group, compute) for name, group in groups.items()}
    total = sum(group.rows * held[name] for name, group in groups.items())
    if nbytes >= total:
        return {name: group.rows for name, group in groups.items()}
    if wanted is not None:
        return _most_wanted(groups, held, nbytes, wanted)
    heads, left = dict.fromkeys(groups, 0), nbytes
    for name, group in groups.items():
        unit = _unit(group)
        heads[name] = int(group.rows * (nbytes / total)) // unit * unit
        left -= heads[name] * held[name]
    # What rounding down left over goes to the groups in turn, a unit each.
    for name, group in groups.items():
        more = min(_unit(group), group.rows - heads[name])
        if more * held[name] <= left:
            heads[name] += more
            left -= more * held[name]
    return heads


def _most_wanted(groups: Mapping[str, Group], held: Mapping[str, int], nbytes: int,
                 wanted: Mapping[str, np.ndarray]) -> dict[str, int]:
    heads, left = dict.fromkeys(groups, 0), nbytes

    def following(name: str) -> tuple[float, float, str] | None:
        group, begin = groups[name], heads[name]
        end = min(begin + _unit(group), group.rows)
        # Of equals the group that holds the smaller share of its rows.
        return None if begin == end else (-float(wanted[name][begin:end].mean()),
                                          begin / group.rows, name)

    queue = [entry for entry in map(following, groups) if entry is not None]
    heapq.heapify(queue)
    while queue:
        name = heapq.heappop(queue)[2]
        group = groups[name]
        rows = min(_unit(group), group.rows - heads[name])
        if rows * held[name] > left:
            continue  # nothing more of this group; a smaller unit of another may fit
        heads[name] += rows
        left -= rows * held[name]
        entry = following(name)
        if entry is not None:
            heapq.heappush(queue, entry)
    return heads


def head_bytes(groups: Mapping[str, Group], rows: Mapping[str, int], compute: torch.dtype) -> int:
    """Return what heads of so many rows take in memory: each begins on a page."""
    return sum(-(-rows[name] * _held_bytes(group, compute) // _PAGE) * _PAGE
               for name, group in groups.items())


def _held_bytes(group: Group, compute: torch.dtype) -> int:
    dtype, elements = held_as(group, compute)
    return elements * dtype.itemsize


def _unit(group: Group) -> int:
    if group.row_bytes >= _LONG_ROW:  # a page more or less is nothing
        return 1
    pages = _PAGE // math.gcd(_PAGE, group.row_bytes)
    even = math.lcm(pages, STEP)
    return even if even * _COARSEST <= group.rows else pages


class Heads:
    """The heads of all groups, filled in passing by the first steps that read their rows."""

    def __init__(self, groups: Mapping[str, Group], rows: Mapping[str, int], reader: Reader,
                 compute: torch.dtype, device: str):
        """Reserve the memory.

        :param rows: by group, see `split`.
        :param compute, device: of the products, and so of what is held (see rows.held_as).
        :raises MemoryError: where there is none to be had.
        """
        self.rows = dict(rows)
        self._filled: dict[str, int] = dict.fromkeys(groups, 0)
        self._weights: dict[str, torch.Tensor] = {}
        self.nbytes = head_bytes(groups, rows, compute)
        self._arena, arena = None, None
        if self.nbytes and torch.device(device).type == 'cpu':
            # One piece of memory in huge pages, as the reader's buffers are.
            self._arena = reader.allocate(self.nbytes)
            arena = torch.frombuffer(self._arena, dtype=torch.uint8)
        at = 0
        for name, group in groups.items():
            dtype, elements = held_as(group, compute)
            size = rows[name] * elements * dtype.itemsize
            shape = (self.rows[name], elements)
            self._weights[name] = (
                torch.empty(shape, dtype=dtype, device=device) if arena is None
                else arena[at:at + size].view(dtype).view(shape))
            at += -(-size // _PAGE) * _PAGE

    def missing(self, group: Group) -> int:
        """Return how many of the head's rows have to be read yet: its last ones."""
        return self.rows[group.name] - self._filled[group.name]

    def weights(self, group: Group) -> torch.Tensor:
        """Return the rows that are there, as stored (rows.stored) or narrower."""
        return self._weights[group.name][:self._filled[group.name]]

    def fill(self, group: Group, first: int, weights: torch.Tensor) -> None:
        """Keep what of rows read from flash, as stored, from row `first` on, comes next."""
        name, filled = group.name, self._filled[group.name]
        end = min(first + len(weights), self.rows[name])
        if first <= filled < end:
            self._weights[name][filled:end] = weights[filled - first:end - first]
            self._filled[name] = end

    def held(self) -> int:
        """Return the bytes that are filled."""
        return sum(self._weights[name][:rows].nbytes for name, rows in self._filled.items())

    def close(self) -> None:
        """Let go of the memory."""
        self._weights, self._arena = {}, None
        self.rows = dict.fromkeys(self.rows, 0)
        self._filled = dict.fromkeys(self._filled, 0)
