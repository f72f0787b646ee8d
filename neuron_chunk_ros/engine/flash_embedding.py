# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""An embedding table that stays on flash: of a prompt's tokens, the rows are read in one batch.

A table of 152,000 words takes a gigabyte in a 7B model, and a token needs 7 KB of it. Where its
coarse rows are held, they stand in while the drive fails.
"""

from __future__ import annotations

import time
from collections import OrderedDict

import numpy as np
import torch

from neuron_chunk_ros.chunking import runs
from neuron_chunk_ros.engine.drive import Drive
from neuron_chunk_ros.engine.rows import stored, widen
from neuron_chunk_ros.engine.step import LOOK_EVERY, Step
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.bundle import Bundle, Group
from neuron_chunk_ros.storage.reader import Reader

_BUFFER_BYTES = 2 << 20
_KEPT = 256  # rows: what every prompt of a chat template has


def embedding_bytes(table: Group | None, compute: torch.dtype) -> int:
    """Return what a table on flash takes in memory: a buffer, and the latest rows."""
    return _BUFFER_BYTES + _KEPT * table.columns * compute.itemsize if table else 0


class FlashEmbedding(torch.nn.Module):
    """Stands in for a torch.nn.Embedding. Its own small reader: nothing else is waited for."""

    def __init__(self, bundle: Bundle, dtype: torch.dtype, device: str, backend: str = 'auto',
                 direct: str = 'auto', base: torch.Tensor | None = None,
                 drive: Drive | None = None):
        """Open the table.

        :param base: its coarse rows, see bases.Bases.weights.
        :param drive: where its faults are noted; they are raised where nothing stands in.
        :param dtype, device: of what is looked up.
        :param backend, direct: see storage.reader.Reader.
        :raises ReadError: where it can't be opened.
        """
        super().__init__()
        self._table: Group = bundle.embedding
        self._dtype, self._device = dtype, torch.device(device)
        self._base, self._drive = base, Drive(forgiving=False) if drive is None else drive
        self._reader = Reader([str(bundle.path / self._table.file)], backend, direct, threads=4,
                              queue_depth=32)
        self._most = max(1, _BUFFER_BYTES // (self._table.row_bytes + self._reader.slack))
        self._buffer = self._reader.allocate(
            self._most * (self._table.row_bytes + self._reader.slack))
        self._view = torch.frombuffer(self._buffer, dtype=torch.uint8)
        self._kept: OrderedDict[int, torch.Tensor] = OrderedDict()
        self.step: Step | None = None  # whose bill the reads enter
        self.num_embeddings, self.embedding_dim = self._table.rows, self._table.columns

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of tokens: int64 [...] -> [..., columns].

        :raises ReadError: when reading fails.
        :raises IndexError: for a token that the table doesn't have.
        """
        wanted, where = ids.detach().cpu().unique(return_inverse=True)
        found = torch.empty(len(wanted), self._table.columns, dtype=self._dtype)
        missing = []
        for at, token in enumerate(wanted.tolist()):
            row = self._kept.get(token)
            if row is None:
                missing.append(at)
            else:
                self._kept.move_to_end(token)
                found[at] = row
        if missing:
            self._fill(found, wanted, missing)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return found[where].to(self._device)

    def _fill(self, found: torch.Tensor, wanted: torch.Tensor, missing: list[int]) -> None:
        """Put the rows of some tokens in their places, and keep the latest."""
        forgiving = self._base is not None and self._drive.forgiving
        try:
            if not self._drive.usable():
                raise ReadError(self._drive.why())
            for first in range(0, len(missing), self._most):
                some = torch.tensor(missing[first:first + self._most])
                found[some] = self._read(wanted[some].numpy()).to(self._dtype)
        except ReadError as error:
            if not forgiving:
                raise
            if self.step is not None:
                self.step.bill.coarse, self.step.bill.fault = True, str(error)
            rows = self._base.index_select(0, wanted[missing].to(self._base.device))
            coarse = torch.empty(len(missing), self._table.columns, device=rows.device)
            widen(rows, self._table.base, coarse)
            found[missing] = coarse.to('cpu', self._dtype)
            return
        for at in missing[-_KEPT:]:
            self._kept[int(wanted[at])] = found[at].clone()

    def _read(self, tokens: np.ndarray) -> torch.Tensor:
        """Return the rows of ascending tokens, as stored; valid until the next reading."""
        if len(tokens) and not 0 <= tokens[0] <= tokens[-1] < self._table.rows:
            raise IndexError(f'a token of {tokens[0]} to {tokens[-1]} is not one of '
                             f'{self._table.rows}')
        step, started = self.step, time.perf_counter()
        batch, looks = None, 0
        stats = None
        try:
            batch = self._reader.submit(0, self._table.extents(runs.of(tokens)), self._buffer)
            while (stats := batch.wait(LOOK_EVERY)) is None:
                if step is not None:
                    step.check()
                looks += 1
                self._drive.look(self._table.file, looks, 0, 0.0)
        except ReadError as error:
            self._drive.failed(error, ())
            raise
        finally:
            # An exception on its way up would hold it, and the buffer with it.
            left, batch = [batch] if batch is not None else [], None
            if stats is None:
                self._drive.take_back(left)
            left.clear()
        self._drive.worked()
        if step is not None:
            ended = time.perf_counter()
            step.mark('wait', self._table.name, started, ended)
            step.bill.bytes_read += stats.bytes_read
            step.bill.bytes_used += stats.bytes_wanted
            step.bill.requests += stats.requests
            if step.started:  # otherwise it is none of the decoder's time
                step.bill.wait_seconds += ended - started
        return stored(self._view, self._table, len(tokens))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._view, self._buffer = None, None
        self._drive.when_gone(self._reader.close)
