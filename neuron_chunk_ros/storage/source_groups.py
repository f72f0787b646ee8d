# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whole groups of a bundle as arrays, for whoever writes another bundle from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.storage.bundle import Bundle, Group
from neuron_chunk_ros.storage.layout import RowOrder
from neuron_chunk_ros.storage.reader import Reader

_PIECE_BYTES = 4 << 20


class SourceGroups:
    """Reads groups, checks them, and keeps those of the latest request; a context manager."""

    def __init__(self, bundle: Bundle):
        """Open the bundle's flash files. Raises ReadError."""
        self._bundle = bundle
        self._reader = Reader([str(path) for path in bundle.flash_files])
        self._held: dict[str, np.ndarray] = {}
        self.orders: dict[str, RowOrder] = {group.name: group.order for group
                                            in bundle.groups.values() if group.order is not None}

    def load(self, groups: Iterable[Group]) -> dict[str, np.ndarray]:
        """Return the groups by name, [rows, columns] each, bfloat16 as uint16, packed as uint8.

        They are valid until another request. Raises BundleError for a damaged one, ReadError.
        """
        groups = list(groups)
        self._held = {group.name: self._held[group.name] for group in groups
                      if group.name in self._held}
        for group in groups:
            if group.name not in self._held:
                self._held[group.name] = self._read(group)
        return self._held

    def rows(self, group: Group) -> Iterator[np.ndarray]:
        """Yield a group's rows in pieces, each valid until the next; nothing of its size is held.

        Raises BundleError behind the last one where the group is damaged, ReadError.
        """
        some = max(1, _PIECE_BYTES // group.row_bytes)
        file, checksum, buffer = self._bundle.file_index(group), hashlib.sha256(), None
        for first in range(0, group.rows, some):
            extents = group.extents([[first, min(some, group.rows - first)]])
            if buffer is None:
                buffer = self._reader.allocate(self._reader.capacity(file, extents)
                                               + self._reader.slack)
            self._reader.read(file, extents, buffer)
            data = np.frombuffer(buffer, np.uint8)[:int(extents[0, 1])]
            checksum.update(data)
            yield data.view(group.format.storage).reshape(-1, self._elements(group))
        self._check(group, checksum.hexdigest())

    def columns(self, group: Group, first: int, count: int) -> np.ndarray:
        """Return some elements of every row, [rows, count]; unchecked, see `rows`.

        Raises ReadError.
        """
        item, file = group.format.item_bytes, self._bundle.file_index(group)
        offsets = group.offset + np.arange(group.rows, dtype=np.int64) * group.row_bytes
        extents = np.stack([offsets + first * item,
                            np.full(group.rows, count * item, np.int64)], axis=1)
        buffer = self._reader.allocate(self._reader.capacity(file, extents))
        self._reader.read(file, extents, buffer)
        data = np.frombuffer(buffer, np.uint8)[:group.rows * count * item]
        return data.view(group.format.storage).reshape(group.rows, count)

    @staticmethod
    def _elements(group: Group) -> int:
        return sum(map(group.format.elements, group.widths))

    def _check(self, group: Group, checksum: str) -> None:
        if checksum != group.checksum:
            raise BundleError(f'group {group.name} in {self._bundle.path / group.file}: checksum '
                              f'differs, the data is damaged')

    def _read(self, group: Group) -> np.ndarray:
        file, extents = self._bundle.file_index(group), group.extents([[0, group.rows]])
        buffer = self._reader.allocate(self._reader.capacity(file, extents))
        self._reader.read(file, extents, buffer)
        data = np.frombuffer(buffer, np.uint8)[:group.nbytes]
        self._check(group, hashlib.sha256(data).hexdigest())
        return data.view(group.format.storage).reshape(group.rows, -1)

    def __enter__(self) -> SourceGroups:
        return self

    def __exit__(self, *_) -> None:
        self._held = {}
        self._reader.close()
