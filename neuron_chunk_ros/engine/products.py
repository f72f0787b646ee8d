# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Products that add up in place, whatever the number of rows.

Many tokens: torch's product, added to what is there. On a CPU, torch's bfloat16 product generates
and keeps a kernel for every new shape, and selections have a different number of rows nearly
every time (12 ms instead of 0.8 for 40 tokens x 5632 columns, one core; 1.3 MB each with AMX). So
rows are multiplied in a few sizes, zero rows behind them.

Rows stored narrower than what is computed in, packed ones among them, are widened a tile at a
time, which the product then finds in the cache.

Few tokens: a native kernel that adds up in float32 at the speed of memory, over rows where they
lie, beginning with the first that arrive. Of plain rows, and of rows in two parts that a kernel
takes together, each token's sum is the same whatever the others: steps of several tokens verify
what single ones would say. Of other packed rows one token's is so but for float32's last bits.
"""

from __future__ import annotations

import numpy as np
import torch

from neuron_chunk_ros import _native
from neuron_chunk_ros.chunking import runs
from neuron_chunk_ros.engine.rows import widen, widen_split
from neuron_chunk_ros.storage.bundle import Group

STEP = 64
FEW = 8  # tokens; from here on torch's product is faster
# The same of packed rows where bfloat16 is slow: they would have to be widened to float32 first.
_FEW_PACKED = 64
TILE_BYTES = 16 << 20  # of widened rows
_WHOLE = ((4, 4), (3, 5))  # bits of base and refinement that a kernel takes together
_NATIVE = {torch.bfloat16: 'bfloat16', torch.float16: 'float16', torch.float32: 'float32'}


def _unit(rows: int) -> int:
    return STEP << ((rows - 1) // (8 * STEP)).bit_length()


def padded(rows: int) -> int:
    """Return the size that so many rows are multiplied as: multiples of STEP, four an octave."""
    unit = _unit(rows)
    return -(-rows // unit) * unit


def unpadded(rows: int) -> int:
    """Return the largest such size of at most so many rows."""
    return rows // _unit(rows) * _unit(rows)


def tile_rows(columns: int, dtype: torch.dtype) -> int:
    """Return how many rows are widened at a time."""
    return max(16, TILE_BYTES // (columns * dtype.itemsize))


class Sum:
    """inputs @ W, [tokens, columns], as W's rows come in."""

    def __init__(self, inputs: torch.Tensor, group: Group, scratch: Scratch,
                 base: torch.Tensor | None = None):
        """Begin with nothing.

        :param inputs: [tokens, rows].
        :param base: of the rows, where these are in two parts: what is added is their
            refinement, and the base goes with it; `add_base` adds that of the others.
        """
        self.inputs, self.columns, self._group, self._base = inputs, group.columns, group, base
        columns = group.columns
        self.on_cpu = inputs.device.type == 'cpu'
        few = _FEW_PACKED if group.format.packed and inputs.dtype == torch.float32 else FEW
        self.few = self.on_cpu and len(inputs) <= few and inputs.dtype in _NATIVE
        self._pad = self.on_cpu and not self.few and inputs.dtype == torch.bfloat16
        self._begun, self._scratch = False, scratch
        # Whether `add_base` is for all rows, and what is added later for the refinement alone.
        self.base_apart = self.few and not (
            group.split and group.split.base.group == 16
            and (group.split.base.bits, group.split.refinement.bits) in _WHOLE)
        if self.few:
            self._floats = inputs.float()
            self._out = scratch.floats(len(inputs), columns)
            self._out.zero_()
        else:
            self._out = scratch.like(inputs, columns)

    def add(self, rows: np.ndarray, weights: torch.Tensor, room: int = 0) -> None:
        """Add the product with some rows.

        :param rows: runs [n, 2], where in the inputs the weights' rows belong.
        :param weights: the runs one after another, as stored (rows.stored).
        :param room: rows of memory behind the weights that may be overwritten.
        """
        if not len(weights):
            return
        if self.few:
            inputs = _columns(self._floats, rows, len(weights)).contiguous().numpy()
            if self._group.format.packed:
                self._add_packed(inputs, weights, rows)
                return
            _native.row_products(inputs, weights.data_ptr(), _NATIVE[weights.dtype], len(weights),
                                 self.columns, self._out.numpy(), torch.get_num_threads())
            return
        if weights.dtype != self.inputs.dtype:
            self._add_widened(rows, weights)
            return
        count = len(weights)
        if self._pad and padded(count) > count:
            if count + room < padded(count):
                even = unpadded(count)
                if even:
                    self.add(runs.part(rows, 0, even), weights[:even])
                    rows, weights = runs.part(rows, even, count), weights[even:]
                behind = weights.new_zeros(padded(len(weights)), self.columns)
                behind[:len(weights)] = weights
                weights = behind
            else:
                weights = weights.as_strided((padded(count), self.columns), (self.columns, 1))
                weights[count:] = 0
        self._add(_columns(self.inputs, rows, len(weights)), weights)

    def add_base(self, coarse: np.ndarray | None) -> None:
        """Add the product with the base of some rows; of all of them where it is `base_apart`.

        :param coarse: runs of the rows whose refinement is not going to be added; None: all.
        """
        if coarse is None or self.base_apart:
            coarse = runs.whole(self._group.rows)
        if not len(coarse):
            return
        if not self.few:
            self._add_widened(coarse, None)
            return
        made, count = self._group.split.base, runs.count(coarse)
        inputs = _columns(self._floats, coarse, count).contiguous().numpy()
        places = None if count == self._group.rows else runs.indices(coarse)
        _native.packed_products(inputs, self._base.data_ptr(), self._base.stride(0),
                                self._group.widths, made.bits, made.group, self._out.numpy(), 0,
                                torch.get_num_threads(), places=places)

    def result(self) -> torch.Tensor:
        """Return the sum in the inputs' dtype; its memory is used again for the next."""
        if self.few:
            return self._out.to(self.inputs.dtype)
        return self._out if self._begun else self._out.zero_()

    def _add_packed(self, inputs: np.ndarray, weights: torch.Tensor, rows: np.ndarray) -> None:
        group, base = self._group, self._base
        made, split = group.format, group.split
        lie, bits, more = weights, made.bits, {}
        if base is not None:
            places = runs.indices(rows)
            if self.base_apart:  # a refinement's scales are with its base
                more = {'scales': base.data_ptr(), 'scale_stride': base.stride(0),
                        'scale_bits': split.base.bits, 'scale_rows': places,
                        'unit': 0.5 ** made.bits}
            else:
                lie, bits = base, split.base.bits
                more = {'places': places, 'finer': weights.data_ptr(),
                        'finer_stride': weights.stride(0), 'finer_bits': made.bits}
        _native.packed_products(
            inputs, lie.data_ptr(), lie.stride(0), group.widths, bits,
            made.group if base is None else split.base.group, self._out.numpy(), 0,
            torch.get_num_threads(), **more)

    def _widen(self, places: np.ndarray | None, weights: torch.Tensor | None, begin: int,
               end: int, out: torch.Tensor) -> None:
        """Write rows number `begin` to `end` of those that are added."""
        some = None if weights is None else weights[begin:end]
        if self._base is None:
            widen(some.to(out.device), self._group, out)
        else:
            widen_split(self._base, places[begin:end], some, self._group, out)

    def _add_widened(self, rows: np.ndarray, weights: torch.Tensor | None) -> None:
        """Add rows that have to be widened first; weights None: of the base alone."""
        dtype, count = self.inputs.dtype, runs.count(rows)
        places = None if self._base is None else runs.indices(rows)
        if not self.on_cpu:
            wide = torch.empty(count, self.columns, dtype=dtype, device=self.inputs.device)
            self._widen(places, weights, 0, count, wide)
            self._add(_columns(self.inputs, rows, count), wide)
            return
        most = padded(count) if self._pad else count
        inputs = _columns(self.inputs, rows, most)
        tile = tile_rows(self.columns, dtype)
        if self._pad:
            tile = max(STEP, unpadded(tile))
        wide = self._scratch.tile(tile, self.columns, dtype)
        for at in range(0, most, tile):
            size, there = min(tile, most - at), max(0, min(tile, count - at))
            if there:  # a tile may be padding alone
                self._widen(places, weights, at, at + there, wide[:there])
            wide[there:size] = 0
            self._add(inputs[:, at:at + tile], wide[:size])

    def _add(self, inputs: torch.Tensor, weights: torch.Tensor) -> None:
        if self._begun:
            torch.addmm(self._out, inputs, weights, out=self._out)
        else:
            torch.mm(inputs, weights, out=self._out)
        self._begun = True


class Scratch:
    """Memory for sums, kept from one to the next: fresh pages would cost more than the product."""

    def __init__(self):
        self._kept: dict[tuple, torch.Tensor] = {}

    def like(self, inputs: torch.Tensor, columns: int) -> torch.Tensor:
        """Return [tokens, columns] of the inputs' dtype and device."""
        return self._get(len(inputs), columns, inputs.dtype, inputs.device)

    def floats(self, tokens: int, columns: int) -> torch.Tensor:
        """Return float32 [tokens, columns]."""
        return self._get(tokens, columns, torch.float32, torch.device('cpu'))

    def tile(self, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        """Return [rows, columns], for widened rows; not the memory of any sum."""
        flat = self._get(1, max(rows * columns, TILE_BYTES // dtype.itemsize), dtype,
                         torch.device('cpu'))
        return flat[0, :rows * columns].view(rows, columns)

    def _get(self, tokens: int, columns: int, dtype, device) -> torch.Tensor:
        key = columns, dtype, device
        kept = self._kept.get(key)
        if kept is None or len(kept) < tokens:
            kept = self._kept[key] = torch.empty(tokens, columns, dtype=dtype, device=device)
        return kept[:tokens]

    def clear(self) -> None:
        """Let go of it."""
        self._kept.clear()


def _columns(inputs: torch.Tensor, rows: np.ndarray, count: int) -> torch.Tensor:
    """Return the inputs' columns that the runs name, [tokens, count]; any others behind them."""
    if len(rows) == 1:
        first, length = int(rows[0, 0]), int(rows[0, 1])
        if length == count:
            return inputs[:, first:first + count]
    if inputs.device.type == 'cpu':
        if inputs.stride(1) != 1:
            inputs = inputs.contiguous()
        found, item = inputs.new_empty(len(inputs), count), inputs.dtype.itemsize
        _native.gather_columns(inputs.data_ptr(), inputs.stride(0) * item, inputs.shape[1],
                               found.data_ptr(), count * item, count, len(inputs), item, rows)
        return found
    # On a GPU nothing is padded.
    return inputs.index_select(1, torch.from_numpy(runs.indices(rows)).to(inputs.device))
