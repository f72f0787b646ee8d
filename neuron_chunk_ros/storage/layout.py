# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle's groups are made of: the words shared by planning, writing and reading."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ALIGNMENT = 4096  # bytes; every group starts on a multiple, so direct I/O needs no slack there
BUNDLE_JSON = 'bundle.json'
RESIDENT_FILE = 'resident.safetensors'


@dataclass(frozen=True)
class Member:
    """One linear layer of a group: its module path and its number of output channels."""

    name: str
    columns: int


@dataclass(frozen=True)
class GroupPlan:
    """Linear layers that share one input of `rows` channels, stored side by side."""

    name: str
    rows: int
    members: tuple[Member, ...]

    @property
    def columns(self) -> int:
        """Output channels of all members together."""
        return sum(member.columns for member in self.members)


@dataclass(frozen=True)
class Group:
    """A group as it lies on flash: tensor [rows, columns], row i = input channel i."""

    name: str
    file: str
    tensor: str
    offset: int  # bytes from the start of the file, a multiple of ALIGNMENT
    rows: int
    columns: int
    row_bytes: int
    dtype: str  # 'bfloat16', 'float16' or 'float32'
    members: tuple[Member, ...]
    checksum: str  # sha256 of the group's bytes, hexadecimal
    permutation: None = None  # reserved for hot-cold order
    scale: None = None  # reserved for quantised rows

    @property
    def nbytes(self) -> int:
        """Bytes of the whole group."""
        return self.rows * self.row_bytes

    def extents(self, intervals: np.ndarray) -> np.ndarray:
        """Turn row intervals [n, 2] (first_row, rows) into byte extents [n, 2] (offset, length).

        Raises ValueError for an interval that leaves the group.
        """
        rows = np.asarray(intervals, np.int64).reshape(-1, 2)
        if len(rows) and (rows.min() < 0 or int(rows.max()) > self.rows
                          or int(rows.sum(axis=1).max()) > self.rows):
            raise ValueError(f'group {self.name}: an interval leaves its {self.rows} rows')
        extents = rows * self.row_bytes
        extents[:, 0] += self.offset
        return extents
