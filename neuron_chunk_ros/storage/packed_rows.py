# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of small integers with their scales: one run on flash, whatever the order of the rows.

A row is one input channel. Of each linear layer of the group it has a segment: the integers of
that layer's output channels, then a bfloat16 scale for every `group` of them. So rows can change
places, and linear layers can be stored together or apart, without quantising anything again; and
an input channel of outliers has scales of its own.

Integers of four bits lie in blocks of 32 output channels: byte k of a block holds channel k in its
low half and channel k + 16 in its high half, both plus 8.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuron_chunk_ros import _native

BLOCK = 32
# Of a group's largest magnitude, where the grid may end: a little clipping can pay.
_SHRINKS = {4: np.linspace(0.7, 1.05, 15), 8: np.array([1.0])}


@dataclass(frozen=True)
class PackedFormat:
    """Integers of `bits` bits, one scale for `group` neighbouring output channels."""

    name: str   # as bundle.json has it
    bits: int   # 4 or 8
    group: int  # a multiple of BLOCK
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
        return -(-columns // BLOCK) * BLOCK * self.bits // 8

    def elements(self, columns: int) -> int:
        """Return how many elements, bytes, a row has of a linear layer of so many columns."""
        return self.segment_bytes(columns)

    def carries(self, array: np.ndarray) -> bool:
        """Tell whether an array's numpy type may carry packed rows."""
        return array.dtype == self.storage

    def segment_bytes(self, columns: int) -> int:
        """Return the bytes of a segment: an even number."""
        return self.value_bytes(columns) + 2 * -(-columns // self.group)

    def row_bytes(self, widths: Sequence[int]) -> int:
        """Return the bytes of a row of segments of these widths."""
        return sum(self.segment_bytes(width) for width in widths)

    def quantise(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Round to the nearest of the integers, by the scales of least squared error.

        :param values: float32 [rows, columns], of one segment.
        :return: int8 [rows, columns], and scales, float32 [rows, groups], bfloat16's values.
        :raises OverflowError: where a value is not finite.
        """
        if not np.isfinite(values).all():
            raise OverflowError(f'a value that is not finite has no {self.name}')
        return _native.round_to_integers(np.ascontiguousarray(values, np.float32), self.bits,
                                         self.group, _SHRINKS[self.bits],
                                         len(os.sched_getaffinity(0)))

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
        packed = np.zeros((rows, self.segment_bytes(columns)), np.uint8)
        size = self.value_bytes(columns)
        whole = np.zeros((rows, -(-columns // BLOCK) * BLOCK), np.int8)
        whole[:, :columns] = integers
        if self.bits == 8:
            packed[:, :size] = whole.view(np.uint8)
        else:
            halves = (whole + 8).view(np.uint8).reshape(rows, size * 2 // BLOCK, 2, BLOCK // 2)
            packed[:, :size] = (halves[:, :, 0] | halves[:, :, 1] << 4).reshape(rows, size)
        packed[:, size:] = (bits >> 16).astype('<u2').view(np.uint8)
        return packed

    def pack_into(self, segment: np.ndarray, columns: int, first: int, integers: np.ndarray,
                  scales: np.ndarray) -> None:
        """Lay out some of a segment's `columns` output channels, from `first` on.

        :param segment: uint8 [rows, segment_bytes], written to.
        :param first: a multiple of `group`.
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
        rows, size = len(packed), self.value_bytes(columns)
        values = np.ascontiguousarray(packed[:, :size])
        if self.bits == 8:
            integers = values.view(np.int8)
        else:
            blocks = size * 2 // BLOCK
            halves = np.stack([values & 15, values >> 4]).reshape(2, rows, blocks, BLOCK // 2)
            integers = halves.transpose(1, 2, 0, 3).reshape(rows, 2 * size).astype(np.int8) - 8
        scales = np.ascontiguousarray(packed[:, size:]).view('<u2').astype(np.uint32) << 16
        return integers[:, :columns], scales.view(np.float32)

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


def _parts(widths: Sequence[int]):
    ends = list(itertools.accumulate(widths))
    return zip([0, *ends], ends, strict=False)


PACKED_FORMATS = {made.name: made for made in (
    PackedFormat('int8', 8, 256),
    PackedFormat('int8-128', 8, 128),
    PackedFormat('int8-64', 8, 64),
    PackedFormat('int8-32', 8, 32),
    PackedFormat('int4', 4, 32),
    PackedFormat('int4-64', 4, 64),
    PackedFormat('int4-128', 4, 128),
)}
