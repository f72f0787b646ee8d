# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Random bytes on the storage to be measured, in the shape of some decoder layers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuron_chunk_ros.bench.shapes import Input
from neuron_chunk_ros.errors import BenchError
from neuron_chunk_ros.storage.layout import ALIGNMENT
from neuron_chunk_ros.storage.scratch_file import scratch_file

_STEP = 16 << 20  # scratch files are multiples of it


@dataclass(frozen=True)
class ScratchLayers:
    """Layers that follow each other in a file, all alike."""

    path: str                              # good for as long as the file is open here
    inputs: tuple[Input, ...]
    offsets: tuple[tuple[int, ...], ...]   # of each input's matrices, within a layer
    layer_bytes: int                       # from one layer to the next
    layers: int

    def extents(self, layer: int, index: int, runs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the bytes of one input's chosen rows: int64 [n, 2] (offset, length).

        :param layer: any number; counted round.
        :param index: which of the inputs.
        :param runs: chosen rows of each of its matrices.
        """
        start = layer % self.layers * self.layer_bytes
        parts = []
        for matrix, offset, chosen in zip(self.inputs[index].matrices, self.offsets[index], runs,
                                          strict=True):
            part = chosen * matrix.row_bytes
            part[:, 0] += start + offset
            parts.append(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


@contextlib.contextmanager
def scratch(folder: Path, inputs: Sequence[Input], layers: int,
            progress: Callable[[int, int], None] = lambda done, total: None
            ) -> Iterator[ScratchLayers]:
    """Write layers into a nameless file, which is gone when the block ends, however it ends.

    :param progress: called with bytes written and bytes in all.
    :raises BenchError, ProfileError: where the folder can't hold the file.
    """
    if not folder.is_dir():
        raise BenchError(f'{folder}: no such folder; --path wants one on the storage to measure')
    offsets, end = [], 0
    for part in inputs:
        within = []
        for matrix in part.matrices:
            within.append(end)
            end += -(-matrix.nbytes // ALIGNMENT) * ALIGNMENT
        offsets.append(tuple(within))
    total = -(-end * layers // _STEP) * _STEP
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < total:
        raise BenchError(f'{folder} has {free / 1e6:,.0f} MB free, {total / 1e6:,.0f} MB are '
                         'needed for a while: choose another folder by --path')
    with scratch_file(folder, total, float('inf'), progress) as file:
        if file.nbytes < end * layers:  # some room is always left to others
            raise BenchError(f'{folder}: {total / 1e6:,.0f} MB are needed for a while and would '
                             'fill the disk: choose another folder by --path')
        yield ScratchLayers(file.path, tuple(inputs), tuple(offsets), end, layers)
