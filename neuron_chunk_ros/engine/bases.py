# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bases: the high bits of all rows, read once and held, so that no row is ever missing.

Where a budget has no room for all, those of some groups are read anew for each step, whole, one
group ahead of the products.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch

from neuron_chunk_ros.engine.drive import Drive
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


def base_bytes(bundle: Bundle, faults: bool = True, streamed: Collection[str] = ()) -> int:
    """Return what a bundle's bases take in memory, but for those that are streamed.

    Each begins on a page.
    """
    return sum(_room(base) for name, base in held_bases(bundle, faults).items()
               if name not in streamed)


def slot_bytes(bundle: Bundle, streamed: Collection[str]) -> int:
    """Return what two of the bases take, whichever are streamed: one in use, one on its way."""
    return 2 * max((_room(bundle.bases[name]) for name in streamed), default=0)


def to_stream(bundle: Bundle, nbytes: int) -> tuple[str, ...]:
    """Return the groups whose bases are streamed so that the rest, and two slots, fit in this.

    The largest are held first: they set the size of the slots. All, where nothing fits.
    """
    names = sorted(held_bases(bundle, faults=False),
                   key=lambda name: bundle.bases[name].nbytes, reverse=True)
    for held in range(len(names), -1, -1):
        streamed = names[held:]
        left = nbytes - base_bytes(bundle, False, streamed) - slot_bytes(bundle, streamed)
        if left >= 0:
            break
    # Of what is left over some smaller ones may be held, too.
    for name in streamed[1:]:
        if (room := _room(bundle.bases[name])) <= left:
            streamed.remove(name)
            left -= room
    return tuple(name for name in bundle.bases if name in streamed)


def _room(base: Group) -> int:
    return -(-base.nbytes // _PAGE) * _PAGE + _PAGE  # what a direct read brings beside them


@dataclass
class _Coming:
    """A streamed base under way."""

    group: str
    slot: int
    batch: object
    started: float


class Bases:
    """The bases of a bundle's groups, those that have one."""

    def __init__(self, bundle: Bundle, reader: Reader, device: str,
                 on_progress: Callable[[float], None] | None = None, faults: bool = True,
                 streamed: Collection[str] = ()):
        """Read them.

        :param faults: see held_bases.
        :param streamed: groups whose bases are read when they are wanted instead.
        :param on_progress: told the share that is there, 0 to 1; what it raises ends the reading.
        :raises ReadError: where one can't be read. MemoryError: where there is none to be had.
        """
        self._weights: dict[str, torch.Tensor] = {}
        self._arena = None
        self.drive: Drive | None = None  # whom reads that don't come back are left to
        self.rate = 0.0  # bytes/s
        self.nbytes = base_bytes(bundle, faults, streamed)
        self._bundle, self._reader, self._device = bundle, reader, device
        self.streamed = tuple(name for name in bundle.multiplied if name in set(streamed))
        self._slots, self._slot, self._coming = None, 0, None
        if self.streamed:
            self._slots = reader.allocate(slot_bytes(bundle, self.streamed))
        if not self.nbytes:
            return
        on_cpu = torch.device(device).type == 'cpu'
        self._arena = reader.allocate(self.nbytes)
        arena = torch.frombuffer(self._arena, dtype=torch.uint8)
        bases = {name: base for name, base in held_bases(bundle, faults).items()
                 if name not in self.streamed}
        started = time.perf_counter()
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

    @property
    def complete(self) -> bool:
        """Whether there are bases, all in memory: a step can do without a read."""
        return bool(self.nbytes) and not self.streamed

    def weights(self, group: Group) -> torch.Tensor | None:
        """Return a group's base, uint8 [rows, row bytes of the base]; None where none is held."""
        return self._weights.get(group.name)

    def come(self, name: str) -> _Coming:
        """Have a streamed base on its way, and return it; see `drop_others`."""
        if self._coming is None:
            self._slot = 1 - self._slot
            base = self._bundle.bases[name]
            self._coming = _Coming(name, self._slot, self._reader.submit(
                self._bundle.file_index(base), np.array([[base.offset, base.nbytes]], np.int64),
                self._slots, self._slot * (self._slots.nbytes // 2)), time.perf_counter())
        return self._coming

    def arrived(self, group: Group) -> torch.Tensor:
        """Return the streamed base that came last; good until the one after the next comes."""
        coming, self._coming = self._coming, None
        at = coming.slot * (self._slots.nbytes // 2)
        base = torch.frombuffer(self._slots, dtype=torch.uint8)[at:at + group.base.nbytes]
        weights = stored(base, group.base, group.rows)
        return weights if torch.device(self._device).type == 'cpu' else weights.to(self._device)

    def drop_others(self, name: str) -> bool:
        """Take back what is under way but for this group's; False where that does not end."""
        return self._coming is None or self._coming.group == name or self.drop()

    def drop(self) -> bool:
        """Take back the streamed base that is under way, or failed; False: it does not end."""
        if self._coming is None:
            return True
        # Not this itself: an exception on its way up may still hold it.
        batches, self._coming.batch = [self._coming.batch], None
        self._coming = None
        return self.drive is None or self.drive.take_back(batches)

    def close(self) -> None:
        """Take back what is under way, let go of the memory."""
        self.drop()
        self._weights, self._arena, self._slots = {}, None, None
