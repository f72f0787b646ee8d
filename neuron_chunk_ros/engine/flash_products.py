# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Multiplying by rows that stream in from flash.

A group's chosen rows are cut into pieces that fit a buffer. While one piece is multiplied the
next is being read; where nothing is skipped, the next group's first piece too, since its rows
need not be chosen first. Memory is the buffers, whatever the model's size.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from neuron_chunk_ros.chunking import runs
from neuron_chunk_ros.engine.chooser import Chooser
from neuron_chunk_ros.engine.products import STEP, Products
from neuron_chunk_ros.engine.telemetry import StepTelemetry
from neuron_chunk_ros.storage.bundle import Bundle, Group
from neuron_chunk_ros.storage.reader import Reader

BUFFERS = 3
LOOK_EVERY = 0.02  # seconds that waiting for a read goes on before looking whether to stop
DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16, 'float32': torch.float32}


@dataclass
class _Flight:
    """A piece under way: its rows, the buffer it lands in and the batch that reads it."""

    group: str
    rows: np.ndarray
    buffer: int
    batch: object
    started: float


class FlashProducts:
    """Reads chosen rows and multiplies by them; keeps the bill of the current step."""

    def __init__(self, bundle: Bundle, reader: Reader, chooser: Chooser, piece_bytes: int):
        """Allocate the buffers.

        :param piece_bytes: size of each of the BUFFERS buffers; raised to hold one row.
        """
        self.bundle, self.reader, self.chooser = bundle, reader, chooser
        # May raise to stop a step midway; looked at between pieces and while waiting for one.
        self.check: Callable[[], None] = lambda: None
        self.on_group: Callable[[float], None] | None = None  # told the share of a step's groups
        # What the reader may need for a run beyond its bytes: two blocks, and up to a page.
        self._slack = 2 * max(reader.block_size, 512) + 4096
        least = max(g.row_bytes for g in bundle.groups.values()) + self._slack
        most = max(g.nbytes for g in bundle.groups.values()) + self._slack
        self.piece_bytes = max(least, min(piece_bytes, most))
        self._buffers = [reader.allocate(self.piece_bytes) for _ in range(BUFFERS)]
        self._views = [torch.frombuffer(b, dtype=torch.uint8) for b in self._buffers]
        self._product = Products()
        self._turn = 0
        self._flights: deque[_Flight] = deque()
        names = list(bundle.groups)
        self._after = dict(zip(names, names[1:] + names[:1], strict=True))
        self._last = names[-1]
        self._file = {name: bundle.file_index(g) for name, g in bundle.groups.items()}
        self._order: dict[str, torch.Tensor] = {}  # by group, on the activations' device
        self._read_until = 0.0
        self.begin('prefill', None)

    @property
    def buffer_bytes(self) -> int:
        """Memory the buffers take."""
        return sum(b.nbytes for b in self._buffers)

    def begin(self, step: str, visual: torch.Tensor | None) -> None:
        """Start a step.

        :param visual: bool [tokens], True at visual tokens; None where there are none.
        """
        self._groups_done = 0
        self._bill = StepTelemetry(step, backend=self.reader.backend,
                                   direct_io=self.reader.direct, importance_kept=0.0)
        self.chooser.begin(step, visual)

    def end(self, tokens: int, seconds: float) -> StepTelemetry:
        """Close the step and hand out its bill."""
        bill = self._bill
        bill.tokens, bill.seconds = tokens, seconds
        bill.importance_kept = bill.importance_kept / bill.rows_total if bill.rows_total else 1.0
        self.chooser.end(bill)
        return bill

    def abandon(self) -> None:
        """Take back reads whose rows nobody wants any more.

        What the device has begun is waited for, nothing else.
        """
        while self._flights:
            # Not by dropping the flight: an exception on its way up may still hold it.
            self._flights.popleft().batch = None

    def close(self) -> None:
        """Take back reads under way, let go of the buffers."""
        self.abandon()
        self._views, self._buffers, self._order = [], [], {}

    def multiply(self, group: Group, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs @ W over the rows the policy chooses.

        :param inputs: [tokens, rows] on the model's device.
        :return: [tokens, columns], the inputs' dtype.
        """
        self.check()
        inputs = self._as_stored(group, inputs)
        started = time.perf_counter()
        chosen = self.chooser.choose(group, inputs, self._bill)
        waiting = self._cut(group, chosen)
        self._bill.select_seconds += time.perf_counter() - started
        if self._flights and not (self._flights[0].group == group.name and np.array_equal(
                self._flights[0].rows, waiting[0])):
            self.abandon()  # read ahead for another selection
        whole, product = len(waiting) == 1, None
        pending = deque(waiting[len(self._flights):])
        for rows in waiting:
            while pending and len(self._flights) < BUFFERS - 1:
                self._launch(group, pending.popleft())
            if self.chooser.everything and not pending and len(self._flights) < BUFFERS - 1:
                self._read_ahead(group)
            weights = self._land(group)
            started = time.perf_counter()
            part = self._part(group, inputs, rows, weights)
            if whole:
                product = part
            else:
                # Pieces are added in float32: in bfloat16 each sum would round once more.
                product = part.float() if product is None else product.add_(part)
            self._bill.compute_seconds += time.perf_counter() - started
            self.check()
        self.chooser.done()
        self._groups_done += 1
        if self.on_group is not None:
            self.on_group(self._groups_done / len(self.bundle.groups))
        return product.to(inputs.dtype)

    def _as_stored(self, group: Group, inputs: torch.Tensor) -> torch.Tensor:
        """Put the activation in the order in which the group's rows lie on flash."""
        if group.permutation is None:
            return inputs
        order = self._order.get(group.name)
        if order is None or order.device != inputs.device:
            order = torch.from_numpy(group.permutation.astype(np.int64)).to(inputs.device)
            self._order[group.name] = order
        return inputs.index_select(1, order)

    def _cut(self, group: Group, chosen: np.ndarray) -> list[np.ndarray]:
        return runs.pieces(chosen, group.row_bytes, self.piece_bytes, self._slack, STEP)

    def _launch(self, group: Group, rows: np.ndarray) -> None:
        started = time.perf_counter()
        batch = self.reader.submit(self._file[group.name], group.extents(rows),
                                   self._buffers[self._turn])
        self._flights.append(_Flight(group.name, rows, self._turn, batch, started))
        self._turn = (self._turn + 1) % BUFFERS

    def _read_ahead(self, group: Group) -> None:
        following = self.bundle.groups[self._after[group.name]]
        if not self.chooser.dense and group.name == self._last:
            return  # the next step may choose
        self._launch(following, self._cut(following, runs.whole(following.rows))[0])

    def _land(self, group: Group) -> torch.Tensor:
        """Wait for the oldest piece; return its rows [n, columns]."""
        flight = self._flights[0]
        started = time.perf_counter()
        while (stats := flight.batch.wait(LOOK_EVERY)) is None:
            self.check()
        self._flights.popleft()
        bill = self._bill
        bill.wait_seconds += time.perf_counter() - started
        bill.bytes_read += stats.bytes_read
        bill.bytes_used += stats.bytes_wanted
        bill.requests += stats.requests
        # Reads of several pieces overlap; their common time counts once.
        done = flight.started + stats.seconds
        bill.read_seconds += max(0.0, done - max(flight.started, self._read_until))
        self._read_until = max(self._read_until, done)
        used = runs.count(flight.rows) * group.row_bytes
        weights = self._views[flight.buffer][:used].view(DTYPES[group.dtype])
        return weights.view(-1, group.columns)

    def _part(self, group: Group, inputs: torch.Tensor, rows: np.ndarray,
              weights: torch.Tensor) -> torch.Tensor:
        if len(rows) == 1:
            first, length = rows[0]
            mine = inputs[:, first:first + length]
        else:
            mine = inputs[:, torch.from_numpy(runs.indices(rows)).to(inputs.device)]
        # The cast does nothing but for float16 on a CPU, whose products only bfloat16 makes fast.
        return self._product(mine, weights.to(inputs.device, inputs.dtype))
