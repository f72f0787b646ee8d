# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bases: the high bits of all rows, read once and held, so that no row is ever missing."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from neuron_chunk_ros.engine.rows import stored
from neuron_chunk_ros.storage.bundle import Bundle, Group
from neuron_chunk_ros.storage.layout import EMBEDDING
from neuron_chunk_ros.storage.reader import Reader

_PAGE = 4096
_AT_ONCE = 64 << 20  # bytes read before progress is told, whole pages


def held_bases(bundle: Bundle, faults: bool = True) -> dict[str, Group]:
    """Return the bases to hold, by group.

    :param faults: whether for a drive that fails, too: then words have to be known without it.
    """
    return {name: base for name, base in bundle.bases.items() if faults or name != EMBEDDING}


def base_bytes(bundle: Bundle, faults: bool = True) -> int:
    """Return what a bundle's bases take in memory: each begins on a page."""
    return sum(_room(base) for base in held_bases(bundle, faults).values())


def _room(base: Group) -> int:
    return -(-base.nbytes // _PAGE) * _PAGE + _PAGE  # what a direct read brings beside them


class Bases:
    """The bases of a bundle's groups, those that have one."""

    def __init__(self, bundle: Bundle, reader: Reader, device: str,
                 on_progress: Callable[[float], None] | None = None, faults: bool = True):
        """Read them.

        :param faults: see held_bases.
        :param on_progress: told the share that is there, 0 to 1; what it raises ends the reading.
        :raises ReadError: where one can't be read. MemoryError: where there is none to be had.
        """
        self._weights: dict[str, torch.Tensor] = {}
        self._arena = None
        self.rate = 0.0  # bytes/s
        self.nbytes = base_bytes(bundle, faults)
        if not self.nbytes:
            return
        on_cpu = torch.device(device).type == 'cpu'
        self._arena = reader.allocate(self.nbytes)
        arena = torch.frombuffer(self._arena, dtype=torch.uint8)
        bases, started = held_bases(bundle, faults), time.perf_counter()
        at, done, total = 0, 0, sum(base.nbytes for base in bases.values())
        for name, base in bases.items():
            file = bundle.file_index(base)
            for first in range(0, base.nbytes, _AT_ONCE):
                size = min(_AT_ONCE, base.nbytes - first)
                extents = np.array([[base.offset + first, size]], np.int64)
                reader.submit(file, extents, self._arena, at + first).wait()
                done += size
                if on_progress is not None:
                    on_progress(done / total)
            weights = stored(arena[at:at + base.nbytes], base, base.rows)
            self._weights[name] = weights if on_cpu else weights.to(device)
            at += _room(base)
        self.rate = total / (time.perf_counter() - started)
        if not on_cpu:
            self._arena = None

    def weights(self, group: Group) -> torch.Tensor | None:
        """Return a group's base, uint8 [rows, row bytes of the base]; None where it has none."""
        return self._weights.get(group.name)

    def close(self) -> None:
        """Let go of the memory."""
        self._weights, self._arena = {}, None
