# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle's groups are made of: the words shared by planning, writing and reading."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from neuron_chunk_ros.storage.packed_rows import Split
from neuron_chunk_ros.storage.row_format import STORED_FORMATS, PackedFormat, Refinement, RowFormat

ALIGNMENT = 4096  # bytes; every group starts on a multiple, so direct I/O needs no slack there
BUNDLE_JSON = 'bundle.json'
RESIDENT_FILE = 'resident.safetensors'
ORDERS_FILE = 'orders.safetensors'
LAYOUTS = ('bundled', 'separate')
ORDERS = ('original', 'hot-cold')
EMBEDDING, LM_HEAD = 'embedding', 'lm_head'  # groups beside the decoder's


def base_name(group: str) -> str:
    """Return what the base of a group's rows is called."""
    return f'{group}.base'


@dataclass(frozen=True)
class Member:
    """One linear layer of a group: its module path and its number of output channels."""

    name: str
    columns: int


@dataclass(frozen=True)
class GroupPlan:
    """Linear layers that share one input, stored side by side, a row for each channel kept."""

    name: str
    rows: int
    members: tuple[Member, ...]
    dtype: str = ''  # its row format where that is not the other groups'
    inputs: int = 0  # channels of the input where some have no row; 0: as many as rows
    base: str = ''   # the row format of the base that these rows refine, or that stands in

    @property
    def in_features(self) -> int:
        """Channels of the input."""
        return self.inputs or self.rows

    @property
    def widths(self) -> tuple[int, ...]:
        """Output channels of each member."""
        return tuple(member.columns for member in self.members)

    @property
    def columns(self) -> int:
        """Output channels of all members together."""
        return sum(self.widths)


@dataclass(frozen=True)
class RowOrder:
    """Another order of a group's rows than the model's own.

    Row i on flash holds the model's input channel channels[i]. Where `absorbed_by` names linear
    layers, their output channels lie in this order too, so that the group's input arrives in it.
    """

    channels: np.ndarray  # int32 [rows], a permutation of 0 .. rows - 1
    absorbed_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """A group as it lies on flash: tensor [rows, columns], row i = input channel i.

    With an `order`, row i = input channel order.channels[i].
    """

    name: str
    file: str
    tensor: str
    offset: int  # bytes from the start of the file, a multiple of ALIGNMENT
    rows: int
    columns: int
    row_bytes: int
    dtype: str  # the row format's name
    members: tuple[Member, ...]
    checksum: str  # sha256 of the group's bytes, hexadecimal
    order: RowOrder | None = field(default=None, compare=False)
    inputs: int = 0  # channels of the input where some have no row; 0: as many as rows
    # Then which have one: int32 [rows], ascending. An order is one of these.
    kept: np.ndarray | None = field(default=None, compare=False)
    # Of the rows, where these here are their refinement; of whole ones (the embedding table) what
    # stands in for them where they can't be read.
    base: Group | None = None

    @property
    def in_features(self) -> int:
        """Channels of the input."""
        return self.inputs or self.rows

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Output channels of each member."""
        return tuple(member.columns for member in self.members)

    @cached_property
    def format(self) -> RowFormat | PackedFormat | Refinement:
        """How its rows are stored."""
        return STORED_FORMATS[self.dtype]

    @cached_property
    def split(self) -> Split | None:
        """How base and refinement make up a row; None where rows are whole."""
        refined = self.base is not None and isinstance(self.format, Refinement)
        return Split(self.base.format, self.format) if refined else None

    @property
    def rows_name(self) -> str:
        """What its rows are called, both parts together."""
        return self.split.name if self.split else self.dtype

    @cached_property
    def permutation(self) -> np.ndarray | None:
        """What to do to the activation at run time: inputs[:, permutation], or None for nothing.

        int32 [rows]; row i on flash holds input channel permutation[i]. Channels without a row
        are not among them.
        """
        order = self.order.channels if self.order and not self.order.absorbed_by else None
        if self.kept is None:
            return order
        return self.kept if order is None else self.kept[order]

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
