# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of small integers with their scales: one run on flash, whatever the order of the rows.

A row is one input channel. Of each linear layer of the group it has a segment: the integers of
that layer's output channels (bit_planes.py), then a bfloat16 scale for every `group` of them. So
rows can change places, and linear layers can be stored together or apart, without quantising
anything again; and an input channel of outliers has scales of its own.

A row can be cut in two: a base of its high bits, with the scales, and a refinement of its low
ones, which has none. A fine integer f of B + R bits is base * 2**R + refinement, the base being f
rounded to B bits, so either lies around zero; the base's scale is the fine one's times 2**R.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuron_chunk_ros import _native
from neuron_chunk_ros.storage import bit_planes
from neuron_chunk_ros.storage.bit_planes import BLOCK

__all__ = ['BLOCK', 'PACKED_FORMATS', 'REFINEMENTS', 'PackedFormat', 'Refinement', 'Split']

# Of a group's largest magnitude, where the grid may end: a little clipping can pay.
_SHRINKS = {4: np.linspace(0.7, 1.05, 15), 8: np.array([1.0])}


@dataclass(frozen=True)
class _Integers:
    """Integers of `bits` bits, stored as bytes."""

    name: str   # as bundle.json has it
    bits: int   # 2 to 6, or 8
    packed = True
    tag = 'U8'  # what safetensors calls the elements: a row is so many bytes
    item_bytes = 1
    storage = np.dtype(np.uint8)

    @property
    def least(self) -> int:
        """The smallest integer; the largest is -least - 1."""
        return -(1 << (self.bits - 1))

    def value_bytes(self, columns: int) -> int:
        """Return the bytes that the integers of a segment take."""
        return bit_planes.nbytes(columns, self.bits)

    def segment_bytes(self, columns: int) -> int:
        """Return the bytes of a segment: an even number."""
        return self.value_bytes(columns)

    def elements(self, columns: int) -> int:
        """Return how many elements, bytes, a row has of a linear layer of so many columns."""
        return self.segment_bytes(columns)

    def row_bytes(self, widths: Sequence[int]) -> int:
        """Return the bytes of a row of segments of these widths."""
        return sum(self.segment_bytes(width) for width in widths)

    def carries(self, array: np.ndarray) -> bool:
        """Tell whether an array's numpy type may carry packed rows."""
        return array.dtype == self.storage


@dataclass(frozen=True)
class PackedFormat(_Integers):
    """Integers, one scale for `group` neighbouring output channels."""

    group: int  # 16, or a multiple of BLOCK

    def segment_bytes(self, columns: int) -> int:
        """Return the bytes of a segment: an even number."""
        return self.value_bytes(columns) + 2 * -(-columns // self.group)

    def quantise(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Round to the nearest of the integers, by the scales of least squared error.

        :param values: float32 [rows, columns], of one segment.
        :return: int8 [rows, columns], and scales, float32 [rows, groups], bfloat16's values.
        :raises OverflowError: where a value is not finite.
        """
        return _rounded(values, self.bits, self.group, _SHRINKS.get(self.bits, _SHRINKS[4]),
                        self.name)

    def pack(self, integers: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Lay a segment out.

        :param integers: int8 [rows, columns]; scales: float32 [rows, groups], bfloat16's values.
        :return: uint8 [rows, segment_bytes].
        :raises ValueError: for integers out of range, scales that are none of bfloat16's.
        """
        rows, columns = integers.shape
        if integers.size and (integers.min() < self.least or integers.max() > -self.least - 1):
            raise ValueError(f'an integer out of the range of {self.name}')
        scales = np.ascontiguousarray(scales, np.float32)
        bits = scales.view(np.uint32)
        if (bits & 0xFFFF).any() or not np.isfinite(scales).all():
            raise ValueError('a scale is not a finite bfloat16')
        if scales.shape != (rows, -(-columns // self.group)):
            raise ValueError(f'scales of shape {list(scales.shape)} for {columns} columns')
        packed = np.empty((rows, self.segment_bytes(columns)), np.uint8)
        size = self.value_bytes(columns)
        packed[:, :size] = bit_planes.pack(integers, self.bits)
        packed[:, size:] = (bits >> 16).astype('<u2').view(np.uint8)
        return packed

    def pack_into(self, segment: np.ndarray, columns: int, first: int, integers: np.ndarray,
                  scales: np.ndarray) -> None:
        """Lay out some of a segment's `columns` output channels, from `first` on.

        :param segment: uint8 [rows, segment_bytes], written to.
        :param first: a multiple of `group` and of BLOCK.
        :param integers, scales: as for `pack`.
        :raises ValueError: as `pack` does.
        """
        packed, at = self.pack(integers, scales), self.value_bytes(first)
        size, behind = self.value_bytes(integers.shape[1]), self.value_bytes(columns)
        segment[:, at:at + size] = packed[:, :size]
        at = behind + 2 * (first // self.group)
        segment[:, at:at + packed.shape[1] - size] = packed[:, size:]

    def unpack(self, packed: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a segment's integers, int8 [rows, columns], and scales, float32 [rows, groups].

        :param packed: uint8 [rows, segment_bytes].
        """
        size = self.value_bytes(columns)
        scales = np.ascontiguousarray(packed[:, size:]).view('<u2').astype(np.uint32) << 16
        return bit_planes.unpack(packed[:, :size], columns, self.bits), scales.view(np.float32)

    def pack_rows(self, values: np.ndarray, widths: Sequence[int]) -> np.ndarray:
        """Quantise whole rows, float32 [rows, sum of widths], to uint8 [rows, row_bytes].

        Raises OverflowError where a value is not finite.
        """
        return np.concatenate([self.pack(*self.quantise(values[:, begin:end]))
                               for begin, end in _parts(widths)], axis=1)

    def unpack_rows(self, packed: np.ndarray, widths: Sequence[int]) -> np.ndarray:
        """Return what rows, uint8 [rows, row_bytes], stand for: float32 [rows, columns]."""
        found, at = [], 0
        for width in widths:
            nbytes = self.segment_bytes(width)
            integers, scales = self.unpack(packed[:, at:at + nbytes], width)
            found.append(integers * np.repeat(scales, self.group, axis=1)[:, :width])
            at += nbytes
        return np.concatenate(found, axis=1)


@dataclass(frozen=True)
class Refinement(_Integers):
    """The low bits of rows whose base lies elsewhere, with the scales."""

    def pack(self, integers: np.ndarray) -> np.ndarray:
        """Lay a segment's integers out, int8 [rows, columns] -> uint8 [rows, segment_bytes].

        Raises ValueError for integers out of range.
        """
        if integers.size and (integers.min() < self.least or integers.max() > -self.least - 1):
            raise ValueError(f'an integer out of the range of {self.name}')
        return bit_planes.pack(integers, self.bits)

    def unpack(self, packed: np.ndarray, columns: int) -> np.ndarray:
        """Return a segment's integers, int8 [rows, columns]."""
        return bit_planes.unpack(packed, columns, self.bits)


@dataclass(frozen=True)
class Split:
    """Rows in two parts: how a base and its refinement make up one fine integer."""

    base: PackedFormat
    refinement: Refinement

    @property
    def name(self) -> str:
        """As bundle.json calls a bundle of such rows."""
        return f'{self.base.name}+{self.refinement.bits}'

    @property
    def bits(self) -> int:
        """Of a fine integer."""
        return self.base.bits + self.refinement.bits

    @property
    def largest(self) -> int:
        """The largest fine integer; the smallest is -2**(bits - 1)."""
        return ((-self.base.least - 1) << self.refinement.bits) - self.refinement.least - 1

    def quantise(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Round to the nearest fine integers: int8 [rows, columns], and the base's scales.

        Scales are float32 [rows, groups] of bfloat16's values; the value of largest magnitude of
        each group becomes the least integer. Raises OverflowError where a value is not finite.
        """
        fine, scales = _rounded(values, self.bits, self.base.group, _SHRINKS[8], self.name)
        return np.minimum(fine, self.largest), scales * np.float32(1 << self.refinement.bits)

    def cut(self, fine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut fine integers into base and refinement, int8 each.

        Raises ValueError for integers out of range.
        """
        wide, bits = fine.astype(np.int16), self.refinement.bits
        if wide.size and (wide.min() < -(1 << (self.bits - 1)) or wide.max() > self.largest):
            raise ValueError(f'an integer out of the range of {self.name}')
        base = np.minimum((wide + (1 << (bits - 1))) >> bits, -self.base.least - 1)
        return base.astype(np.int8), (wide - (base << bits)).astype(np.int8)

    def join(self, base: np.ndarray, refinement: np.ndarray) -> np.ndarray:
        """Return the fine integers, int16."""
        return (base.astype(np.int16) << self.refinement.bits) + refinement

    def unpack_rows(self, base: np.ndarray, refinement: np.ndarray, widths: Sequence[int]
                    ) -> np.ndarray:
        """Return what both parts of rows stand for together: float32 [rows, columns]."""
        found, at, behind = [], 0, 0
        for width in widths:
            size, more = self.base.segment_bytes(width), self.refinement.segment_bytes(width)
            high, scales = self.base.unpack(base[:, at:at + size], width)
            low = self.refinement.unpack(refinement[:, behind:behind + more], width)
            each = np.repeat(scales, self.base.group, axis=1)[:, :width]
            found.append(self.join(high, low) * (each / np.float32(1 << self.refinement.bits)))
            at, behind = at + size, behind + more
        return np.concatenate(found, axis=1)

    def recut(self, base: np.ndarray, refinement: np.ndarray, widths: Sequence[int], to: Split
              ) -> tuple[np.ndarray, np.ndarray]:
        """Return both parts of rows cut elsewhere: what they stand for stays the same to the bit.

        :param base, refinement: uint8 [rows, row bytes], as for `unpack_rows`.
        :raises ValueError: where `to` has no such integer: its base has fewer bits, or another
            group.
        """
        if to.bits != self.bits or to.base.group != self.base.group:
            raise ValueError(f'{self.name} and {to.name} are not the same integers')
        bases, refinements, at, behind = [], [], 0, 0
        for width in widths:
            size, more = self.base.segment_bytes(width), self.refinement.segment_bytes(width)
            high, scales = self.base.unpack(base[:, at:at + size], width)
            low = self.refinement.unpack(refinement[:, behind:behind + more], width)
            coarse, rest = to.cut(self.join(high, low))
            # A power of two: no bit of a scale is lost.
            steps = np.float32(2.0 ** (to.refinement.bits - self.refinement.bits))
            bases.append(to.base.pack(coarse, scales * steps))
            refinements.append(to.refinement.pack(rest))
            at, behind = at + size, behind + more
        return np.concatenate(bases, axis=1), np.concatenate(refinements, axis=1)


def _rounded(values: np.ndarray, bits: int, group: int, shrinks: np.ndarray, name: str
             ) -> tuple[np.ndarray, np.ndarray]:
    if not np.isfinite(values).all():
        raise OverflowError(f'a value that is not finite has no {name}')
    return _native.round_to_integers(np.ascontiguousarray(values, np.float32), bits, group,
                                     shrinks, len(os.sched_getaffinity(0)))


def _parts(widths: Sequence[int]):
    ends = list(itertools.accumulate(widths))
    return zip([0, *ends], ends, strict=False)


PACKED_FORMATS = {made.name: made for made in (
    PackedFormat('int8', 8, 256),
    PackedFormat('int8-128', 8, 128),
    PackedFormat('int8-64', 8, 64),
    PackedFormat('int8-32', 8, 32),
    PackedFormat('int4', 4, 32),
    PackedFormat('int4-16', 4, 16),
    PackedFormat('int4-64', 4, 64),
    PackedFormat('int4-128', 4, 128),
    PackedFormat('int3', 3, 32),
    PackedFormat('int3-16', 3, 16),
    PackedFormat('int2-16', 2, 16),
)}
REFINEMENTS = {made.name: made for made in (
    Refinement(f'plus{bits}', bits) for bits in range(2, 7))}
