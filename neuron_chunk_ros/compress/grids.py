# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where compressed weights may lie: integers of few bits, and who shares a scale.

A linear layer's weight is [inputs, outputs] here, as it lies on flash: row i is input channel i.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neuron_chunk_ros import _native
from neuron_chunk_ros.storage.packed_rows import PACKED_FORMATS, PackedFormat


@dataclass(frozen=True)
class Grid:
    """Integers of `bits` bits, times a scale.

    :param bits: 2 to 8.
    :param shared: which weights share a scale: 'tensor', 'row' (of an input channel), so many
        neighbouring outputs of an input channel (32, 64 or 128; above 4 bits also 256, up to 4
        also 16), or
        'column' (of an output), which no rows on flash can have, but integers that add up must.
    """

    bits: int
    shared: int | str = 32

    def __post_init__(self):
        if not 2 <= self.bits <= 8:
            raise ValueError(f'bits {self.bits}: want 2 to 8')
        if self.shared not in ('tensor', 'row', 'column', *self._formats()):
            raise ValueError(f"group {self.shared!r}: want 'tensor', 'row', 'column' or one of "
                             f'{", ".join(map(str, self._formats()))}')

    @property
    def least(self) -> int:
        """The smallest integer."""
        return -(1 << (self.bits - 1))

    @property
    def largest(self) -> int:
        """The largest integer."""
        return -self.least - 1

    @property
    def format(self) -> PackedFormat:
        """The row format that holds it. Raises ValueError where there is none."""
        if self.shared == 'column':
            raise ValueError("rows on flash have scales of their own: group 'column' is for "
                             'fixed_point alone')
        formats = self._formats()
        return formats[self.shared if isinstance(self.shared, int) else max(formats)]

    @property
    def width(self) -> int:
        """How many neighbouring outputs each of a row's scales serves."""
        return 1 if self.shared == 'column' else self.format.group

    def _formats(self) -> dict[int, PackedFormat]:
        """Return the row formats of enough bits by their groups."""
        held = 4 if self.bits <= 4 else 8
        return {made.group: made for made in sorted(
            PACKED_FORMATS.values(), key=lambda made: made.group) if made.bits == held}

    def blocks(self, values: np.ndarray) -> np.ndarray:
        """Return the values by who shares a scale: [rows, outputs] -> [blocks, of one]."""
        if self.shared == 'tensor':
            return values.reshape(1, -1)
        if self.shared == 'row':
            return values
        if self.shared == 'column':
            return np.ascontiguousarray(values.T)
        rows, columns = values.shape
        behind = -columns % self.shared
        if behind:
            values = np.pad(values, ((0, 0), (0, behind)))
        return values.reshape(-1, self.shared)

    def spread(self, scales: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """Return a block's scale for each group of the row format: [blocks] -> [rows, groups].

        Rounded to bfloat16 away from zero, so that nothing is clipped for it.
        """
        groups = -(-columns // self.width)
        scales = to_bfloat16(scales)
        if self.shared == 'tensor':
            return np.full((rows, groups), scales[0], np.float32)
        if self.shared == 'row':
            return np.repeat(scales[:, None], groups, axis=1)
        if self.shared == 'column':
            return np.repeat(scales[None], rows, axis=0)
        return scales.reshape(rows, groups)

    def round(self, values: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Return the nearest integers, int8 [rows, outputs].

        :param scales: float32 [rows, groups], from `spread`.
        """
        each = self.each(scales, values.shape[1])
        with np.errstate(divide='ignore', invalid='ignore'):
            found = np.where(each == 0, 0, np.rint(values / each))
        return found.clip(self.least, self.largest).astype(np.int8)

    def each(self, scales: np.ndarray, columns: int) -> np.ndarray:
        """Return every weight's scale, [rows, outputs]."""
        return np.repeat(scales, self.width, axis=1)[:, :columns]

    def values(self, integers: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Return what integers stand for, float32 [rows, outputs]."""
        return integers * self.each(scales, integers.shape[1])

    def nearest(self, values: np.ndarray, shrinks: np.ndarray,
                threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Round with each group's best scale of those that `shrinks` makes of its largest value.

        For scales that groups share, natively.
        """
        return _native.round_to_integers(np.ascontiguousarray(values, np.float32), self.bits,
                                         self.format.group, shrinks, threads)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the next bfloat16 away from zero, as float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
