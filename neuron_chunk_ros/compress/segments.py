# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Laying out a group's rows as a recipe wants them, some outputs at a time."""

from __future__ import annotations

import numpy as np

from neuron_chunk_ros.storage.layout import GroupPlan
from neuron_chunk_ros.storage.packed_rows import (
    PACKED_FORMATS,
    REFINEMENTS,
    PackedFormat,
    Split,
)
from neuron_chunk_ros.storage.row_format import FORMATS


def names_of(made: PackedFormat | Split) -> tuple[str, str]:
    """Return the names of the row format and of its base's."""
    return (made.refinement.name, made.base.name) if isinstance(made, Split) else (made.name, '')


class Segments:
    """A group's rows as they are to lie on flash, and their bases; filled in piece by piece."""

    def __init__(self, plan: GroupPlan, rows: int):
        """`rows`: of them all, also those that a pruner takes."""
        self.made = FORMATS[plan.dtype] if not plan.base else Split(
            PACKED_FORMATS[plan.base], REFINEMENTS[plan.dtype])
        parts = [self.made.refinement, self.made.base] if plan.base else [self.made]
        self._formats = parts
        self.arrays = [np.empty((rows, made.row_bytes(plan.widths)), np.uint8) if made.packed else
                       np.empty((rows, plan.columns), made.storage) for made in parts]
        self._at = [0] * len(parts)
        self._columns = 0

    def begin(self, columns: int) -> None:
        """Begin with the next linear layer, of so many outputs."""
        self._at = [at + made.elements(self._columns) if self._columns else 0
                    for at, made in zip(self._at, self._formats, strict=True)]
        self._columns = columns

    def put(self, first: int, *laid: np.ndarray) -> None:
        """Lay out some outputs from `first` on: values, or integers with scales.

        Where rows are in two parts: the base's integers, its scales, and the fine integers.
        """
        pieces = [array[:, at:at + made.elements(self._columns)] for array, at, made in
                  zip(self.arrays, self._at, self._formats, strict=True)]
        if isinstance(self.made, Split):
            base, scales, fine = laid
            low = self.made.refinement.pack(
                (fine - (base.astype(np.int16) << self.made.refinement.bits)).astype(np.int8))
            at = self.made.refinement.value_bytes(first)
            pieces[0][:, at:at + low.shape[1]] = low
            self.made.base.pack_into(pieces[1], self._columns, first, base, scales)
        elif self.made.packed:
            self.made.pack_into(pieces[0], self._columns, first, *laid)
        else:
            pieces[0][:, first:first + laid[0].shape[1]] = laid[0]
