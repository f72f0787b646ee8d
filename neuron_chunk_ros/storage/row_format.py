# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How a row is stored: the one place that knows its name, its bytes, its packing and unpacking.

numpy has no bfloat16: its bits travel as uint16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuron_chunk_ros.storage.packed_rows import (
    PACKED_FORMATS,
    REFINEMENTS,
    PackedFormat,
    Refinement,
)

__all__ = ['FORMATS', 'ROW_FORMATS', 'STORED_FORMATS', 'PackedFormat', 'Refinement', 'RowFormat',
           'by_tag']


@dataclass(frozen=True)
class RowFormat:
    """Rows of one floating type; a bundle's groups all have the same format."""

    name: str                   # as bundle.json has it
    tag: str                    # what safetensors calls the elements
    item_bytes: int
    carriers: tuple[str, ...]   # numpy types that may carry its bits; the first one does here
    packed = False

    @property
    def storage(self) -> np.dtype:
        """The numpy type of packed rows."""
        return np.dtype(self.carriers[0])

    def elements(self, columns: int) -> int:
        """Return how many elements a row has of a linear layer of so many columns."""
        return columns

    def row_bytes(self, widths: Sequence[int]) -> int:
        """Return the bytes of a row of linear layers with so many columns each."""
        return sum(widths) * self.item_bytes

    def carries(self, array: np.ndarray) -> bool:
        """Tell whether an array's numpy type may carry packed rows."""
        return array.dtype in [np.dtype(name) for name in self.carriers]

    def unpack(self, raw: np.ndarray) -> np.ndarray:
        """Read packed values as float32, exactly."""
        if self.name == 'bfloat16':
            return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return raw.view(self.storage).astype(np.float32)

    def pack(self, values: np.ndarray) -> np.ndarray:
        """Round float32 values to packed ones (nearest, ties to even).

        Raises OverflowError where a finite value would become infinite.
        """
        values = np.ascontiguousarray(values, np.float32)
        if self.name == 'float32':
            return values
        if self.name == 'float16':
            with np.errstate(over='ignore'):
                narrow = values.astype(np.float16)
            overflow = np.isinf(narrow) & ~np.isinf(values)
        else:
            bits = values.view(np.uint32)
            rounded = bits + (((bits >> 16) & 1) + 0x7FFF)  # wraps only for NaN, restored below
            narrow = (rounded >> 16).astype(np.uint16)
            nan = np.isnan(values)
            narrow[nan] = ((bits[nan] >> 16) | 0x40).astype(np.uint16)
            overflow = ((narrow & 0x7FFF) == 0x7F80) & ~np.isinf(values)
        if overflow.any():
            raise OverflowError(f'a value does not fit {self.name}')
        return narrow


ROW_FORMATS = {made.name: made for made in (
    RowFormat('bfloat16', 'BF16', 2, ('uint16',)),
    RowFormat('float16', 'F16', 2, ('float16', 'uint16')),
    RowFormat('float32', 'F32', 4, ('float32', 'uint32')),
)}
# Of rows by themselves; a refinement's need a base.
FORMATS = {**ROW_FORMATS, **PACKED_FORMATS}
STORED_FORMATS = {**FORMATS, **REFINEMENTS}
_BY_TAG = {made.tag: made for made in ROW_FORMATS.values()}


def by_tag(tag: str) -> RowFormat | None:
    """Return the format whose elements safetensors calls so; None where there is none."""
    return _BY_TAG.get(tag)
