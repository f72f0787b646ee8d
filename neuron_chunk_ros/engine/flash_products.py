# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Multiplying by rows of which some are held in memory and the rest stream in from flash.

A group is a head that is held and a tail on flash. What is chosen and read is of the tail; while
it is on its way the head is multiplied. Pieces of a tail are read ahead of the products: of the
same group, and where nothing has to be chosen first, of the groups behind it; where something has,
what is likely to be chosen of the next group (read_ahead.py).
Memory is the heads and the ring of pieces, whatever the model's size.

Where rows are in two parts, what is read is their refinement: no row is ever missing, and a drive
that fails costs precision (drive.py).
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from neuron_chunk_ros.chunking import runs
from neuron_chunk_ros.engine import rows as stored_rows
from neuron_chunk_ros.engine.bases import Bases
from neuron_chunk_ros.engine.chooser import Chooser
from neuron_chunk_ros.engine.device_copies import DeviceCopies
from neuron_chunk_ros.engine.drive import Drive
from neuron_chunk_ros.engine.heads import Heads
from neuron_chunk_ros.engine.products import FEW, STEP, Scratch, Sum, padded, unpadded
from neuron_chunk_ros.engine.read_ahead import LastChoice, NextRows
from neuron_chunk_ros.engine.ring import Ring
from neuron_chunk_ros.engine.step import LOOK_EVERY, Step
from neuron_chunk_ros.engine.telemetry import StepTelemetry
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.bundle import Bundle, Group
from neuron_chunk_ros.storage.layout import LM_HEAD
from neuron_chunk_ros.storage.reader import Reader

_MOST_UNDER_WAY = 8  # pieces
_NOTHING = np.empty((0, 2), np.int64)
_PAGE = 4096
_EARLY_BYTES = 2 << 20  # that a product of few tokens waits for
_TILE = 16  # rows that are added up in registers, see packed_kernel.hpp


class GroupProducts(Protocol):
    """What multiplies for the flash-backed layers; calibration has one of its own."""

    def multiply(self, group: Group, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs @ W: [tokens, rows] -> [tokens, columns]."""


@dataclass
class _Flight:
    """A piece under way: its rows, where it lands and the batch that reads it."""

    group: str
    rows: np.ndarray
    at: int
    room: int  # rows of memory behind that may be overwritten
    batch: object
    started: float


@dataclass
class _Arrived:
    """Rows of a piece that are there: all that are left of it, or the next few."""

    rows: np.ndarray       # runs
    weights: torch.Tensor  # [rows, columns]
    room: int              # rows of memory behind that may be overwritten
    last: bool             # whether the whole piece is there now


class FlashProducts:
    """Reads chosen rows and multiplies by them, one step after another."""

    def __init__(self, bundle: Bundle, reader: Reader, chooser: Chooser, heads: Heads,
                 piece_bytes: int, device: str = 'cpu', bases: Bases | None = None,
                 drive: Drive | None = None):
        """Allocate the memory that is read into.

        :param piece_bytes: the largest piece, a third of it; raised to hold one row.
        :param device: where products are computed.
        :param bases: of rows in two parts; read here where not given.
        :param drive: where its faults are noted; by default they are raised.
        """
        self.bundle, self.reader, self.chooser, self.heads = bundle, reader, chooser, heads
        self.drive = Drive(forgiving=False) if drive is None else drive
        self.bases = Bases(bundle, reader, device) if bases is None else bases
        self.bases.drive = self.drive
        self._slack = reader.slack
        self.piece_bytes, ring_bytes = ring_size(bundle, self._slack, piece_bytes)
        self._buffer = reader.allocate(ring_bytes)
        self._view = torch.frombuffer(self._buffer, dtype=torch.uint8)
        self._ring = Ring(ring_bytes)
        self._copies = (DeviceCopies(self._view, self.piece_bytes, torch.device(device))
                        if torch.device(device).type == 'cuda' else None)
        self._scratch, self._last_choice, self._next_rows = Scratch(), LastChoice(), NextRows()
        self._flights: deque[_Flight] = deque()
        self._go_ahead(iter(()))
        self._groups = bundle.multiplied
        self._names = list(self._groups)
        self._file = {name: bundle.file_index(g) for name, g in self._groups.items()}
        self._order: dict[str, torch.Tensor] = {}  # by group, on the activations' device
        self._pieces: dict[tuple[str, int], list[np.ndarray]] = {}  # of all rows from one on
        self._read_until = 0.0
        self._rate = self.bases.rate  # bytes/s that the last step read
        self._coarse_step = self._lost = False
        self._step, self._goes_on, self._guessed = Step('prefill', 0), False, False
        self._now = self._names  # the groups of this step
        chooser.begin(self._step)

    @property
    def buffer_bytes(self) -> int:
        """Memory that is read into."""
        return self._buffer.nbytes

    def begin(self, step: Step) -> None:
        """Start a step."""
        self._step = step
        wants_all = step.logits or LM_HEAD not in self._groups
        self._now = self._names if wants_all else self._names[:-1]
        step.bill.backend, step.bill.direct_io = self.reader.backend, self.reader.direct
        self.chooser.begin(step)
        self._coarse_step = step.kind == 'draft'
        if self._coarse_step:  # nothing is chosen, and what was read ahead stays
            return
        if not self.drive.usable():
            if not self.drive.forgiving:
                raise ReadError(self.drive.why())
            self._coarse_step, step.bill.fault = True, self.drive.why()
        elif self._lost:  # what was under way has come back
            self._ring.clear()
            self._lost = False
        elif (self.bases.complete and step.deadline is not None
              and self.chooser.foretold(step) > step.remaining()):
            self.abandon()
            self._coarse_step = True
        if self._coarse_step:
            step.bill.coarse = True
            return
        self._goes_on = self.chooser.dense and step.tokens <= FEW
        # By milliseconds it depends on the moment what is chosen; a baseline reads just that.
        self._guessed = self.chooser.may_exceed and not (
            self.chooser.everything or self.chooser.paced)
        self._last_choice.begin(
            self.chooser.habit if self._guessed and step.tokens > FEW else None)
        self._go_ahead(self._all_pieces() if self.chooser.everything else iter(()))
        try:
            if self._flights and not self.chooser.everything:
                self._drop_guesses()  # read ahead for a step that was to want everything
            for flight in self._flights:
                following = next(self._ahead, None)
                if following is None or not _same(flight, *following):
                    self._drop_guesses()
                    self._go_ahead(self._all_pieces())
                    break
            self._top_up(deque())
        except ReadError as error:
            if not self.drive.forgiving:
                raise
            self._lose(error, copy.copy(step.bill))

    def end(self) -> StepTelemetry:
        """Close the step and hand out its bill."""
        bill = self._step.end()
        self.chooser.end(self._step)
        self._last_choice.end()
        if bill.bytes_read and bill.read_seconds:
            self._rate = bill.bytes_read / bill.read_seconds
        return bill

    def abandon(self) -> None:
        """Take back reads whose rows nobody wants any more.

        What the device has begun is waited for, nothing else; where that does not end, the memory
        is left alone until it does.
        """
        if self._take_back() and not self._lost:
            self._ring.clear()
        else:
            self._lost = True

    def _drop_guesses(self) -> None:
        """Take back reads within a step, which waits for what the device has begun."""
        file = self._groups[self._flights[0].group].file
        if not self._take_back():
            self._wait_gone(file)
        self._ring.clear()

    def _wait_gone(self, file: str) -> None:
        looks = 0
        while not self.drive.gone(LOOK_EVERY):
            looks += 1
            self._look(file, looks)

    def _take_back(self) -> bool:
        batches = []
        while self._flights:
            # Not the flight: an exception on its way up may still hold it.
            flight = self._flights.popleft()
            batches.append(flight.batch)
            flight.batch = None
        return self.drive.take_back(batches)

    def close(self) -> None:
        """Take back reads under way, let go of the memory."""
        self._take_back()
        if self._copies is not None:
            self._copies.close()
        self._view, self._buffer, self._order = None, None, {}
        self._scratch.clear()
        self.heads.close()
        self.bases.close()

    def multiply(self, group: Group, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs @ W over the head and the rows of the tail that the policy chooses.

        :param inputs: [tokens, rows] on the model's device.
        :return: [tokens, columns], the inputs' dtype; overwritten by a later group's.
        """
        self._step.check()
        inputs = self._as_stored(group, inputs)
        base = self.bases.weights(group)
        if base is None and group.name in self.bases.streamed:
            if self._lost:
                raise ReadError(self.drive.why())
            base = self._streamed_base(group)
        if base is None:
            if self._lost and (self.heads.missing(group) or len(self.heads.weights(group))
                               < group.rows):
                raise ReadError(self.drive.why())
            return self._refined(group, inputs, None)
        if self._coarse_step:
            return self._coarse(group, inputs, base)
        before = copy.copy(self._step.bill)
        try:
            return self._refined(group, inputs, base)
        except ReadError as error:
            if not self.drive.forgiving:
                raise
            self._lose(error, before)
        return self._coarse(group, inputs, base)

    def _streamed_base(self, group: Group) -> torch.Tensor:
        """Return a base that isn't held, and have the next one on its way."""
        if not self.bases.drop_others(group.name):
            self._wait_gone(group.file)
        coming, looks = self.bases.come(group.name), 0
        try:
            with self._waiting(group):
                while (stats := coming.batch.wait(LOOK_EVERY)) is None:
                    looks += 1
                    self._look(group.file, looks)
        except BaseException:
            self.bases.drop()
            raise
        self._enter(group, stats, coming.started)
        base = self.bases.arrived(group)
        at = self._now.index(group.name) + 1
        # Behind the last one comes the next step's first.
        self.bases.come(next(name for name in (*self._now[at:], *self._now)
                             if name in self.bases.streamed))
        return base

    def _refined(self, group: Group, inputs: torch.Tensor, base: torch.Tensor | None
                 ) -> torch.Tensor:
        """Return the product with the rows that are held and those that are chosen."""
        step, bill = self._step, self._step.bill
        started = time.perf_counter()
        free, waited = self._read_until, bill.wait_seconds
        came = self._came_ahead(group)
        ahead = np.concatenate(came) if came else _NOTHING
        chosen, ideal = self.chooser.choose(group, inputs, step, ahead)
        missing = self.heads.missing(group)
        if missing:  # what fills a head isn't read again
            head = self.heads.rows[group.name]
            filling = np.array([[head - missing, missing]], np.int64)
            chosen = runs.union([filling, chosen], group.rows) if len(chosen) else filling
        elif self._guessed and group.name != LM_HEAD:
            self._last_choice.note(group.name, ideal, ahead)
        waiting, pending = self._plan(group, came, chosen)
        self._top_up(pending)
        chose = time.perf_counter()
        bill.select_seconds += chose - started
        step.mark('choose', group.name, started, chose)
        total = Sum(inputs, group, self._scratch, base)
        held = self.heads.weights(group)
        if base is not None:
            self._add_base(total, group, base, waiting, len(held))
        if len(held):
            self._add(total, group, np.array([[0, len(held)]], np.int64), held)
            bill.bytes_held += held.nbytes
        for _ in waiting:
            for arrived in self._arrivals(group, early=total.few):
                weights = arrived.weights
                if self._copies is not None:
                    weights = self._copies.copy(weights)
                if arrived.last:
                    self._top_up(pending)
                self._add(total, group, arrived.rows, weights, arrived.room)
                if missing and len(arrived.rows):
                    first, count = arrived.rows[0].tolist()
                    self.heads.fill(group, first, weights[:count])
                copied = None if self._copies is None else self._copies.release()
                if arrived.last:
                    self._ring.give_back(copied)
                step.check()
            self._top_up(pending)
        self.chooser.done(group, step)
        step.group_done(len(self._now))
        if self._guessed and not missing and group.name != LM_HEAD:
            self._next_rows.note(self.chooser.habit, group.name,
                                 max(0.0, chose - max(free, step.started)),
                                 bill.wait_seconds - waited, self._rate)
        return total.result()

    def _lose(self, error: ReadError, before: StepTelemetry) -> None:
        """Read no more in this step: the drive fails. `before`: the bill without this group."""
        bill = self._step.bill
        for name in ('rows_selected', 'rows_held', 'rows_ahead', 'rows_ahead_wanted',
                     'rows_total', 'chunks', 'importance_kept', 'contiguity'):
            setattr(bill, name, getattr(before, name))
        bill.coarse = self._coarse_step = self._lost = True
        bill.fault = str(error)
        self.drive.failed(error, ())
        self._take_back()
        self._go_ahead(iter(()))

    def _coarse(self, group: Group, inputs: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        """Return the product with what is held alone."""
        total, held = Sum(inputs, group, self._scratch, base), self.heads.weights(group)
        if self._step.kind != 'draft' and group.name != LM_HEAD:
            self._step.bill.rows_total += group.rows
            self._step.bill.rows_selected += len(held)
            self._step.bill.rows_held += len(held)
        self._add_base(total, group, base, [], len(held))
        if len(held):
            self._add(total, group, runs.between(0, len(held)), held)
            self._step.bill.bytes_held += held.nbytes
        self._step.group_done(len(self._now))
        return total.result()

    def _add_base(self, total: Sum, group: Group, base: torch.Tensor, fine: list[np.ndarray],
                  held: int) -> None:
        """Add the base: while the refinement of the fine rows is on its way.

        :param fine: pieces that are going to be added, beside the first `held` rows.
        """
        coarse = None
        if not total.base_apart and (fine or held):
            fine = [rows for rows in (*fine, runs.between(0, held)) if len(rows)]
            coarse = runs.difference(runs.whole(group.rows), runs.union(fine, group.rows))
        started = time.perf_counter()
        total.add_base(coarse)
        ended = time.perf_counter()
        self._step.bill.compute_seconds += ended - started
        self._step.bill.bytes_held += base.nbytes
        self._step.mark('multiply', group.name, started, ended)

    def _came_ahead(self, group: Group) -> list[np.ndarray]:
        """Return the pieces that were read ahead of the choice; where there is one, that is."""
        if self.chooser.everything:
            return []
        if any(flight.group != group.name for flight in self._flights):
            self._drop_guesses()  # a group was left out: not ours to guess
        return [flight.rows for flight in self._flights]

    def _plan(self, group: Group, came: list[np.ndarray],
              chosen: np.ndarray) -> tuple[list[np.ndarray], deque]:
        """Return the pieces to wait for, in order, and those that have to be asked for yet."""
        if self.chooser.everything:
            waiting = self._whole(group, int(chosen[0, 0])) if len(chosen) else []
            if not waiting or (self._flights and _same(self._flights[0], group, waiting[0])):
                return waiting, deque()
            if self._flights:
                self._drop_guesses()
            self._go_ahead(self._all_pieces(group.name))
            return waiting, deque((group, rows) for rows in waiting)
        rest = self._cut(group, chosen)
        self._go_ahead(self._guessed_pieces(group.name))
        return came + rest, deque((group, rows) for rows in rest)

    def _guessed_pieces(self, before: str) -> Iterator[tuple[Group, np.ndarray]]:
        """Yield what is likely to be chosen of the next group."""
        at = self._names.index(before) + 1
        if at >= len(self._now):
            return
        group = self._groups[self._now[at]]
        if self.heads.missing(group):
            return
        head = self.heads.rows[group.name]
        if group.name == LM_HEAD:
            guess = runs.between(head, group.rows)
        elif not self._guessed:
            return
        else:
            guess = self._last_choice.guess(group.name)
        if guess is None:
            rows = self._next_rows.nbytes(self.chooser.habit, group.name) // group.row_bytes
            guess = runs.between(head, min(head + unpadded(rows), group.rows))
        if guess is not None:
            for rows in self._cut(group, guess):
                yield group, rows

    def _add(self, total: Sum, group: Group, rows: np.ndarray, weights: torch.Tensor,
             room: int = 0) -> None:
        started = time.perf_counter()
        total.add(rows, weights, room)
        ended = time.perf_counter()
        self._step.bill.compute_seconds += ended - started
        self._step.mark('multiply', group.name, started, ended)

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
        if not len(chosen):
            return []
        return runs.pieces(chosen, group.row_bytes, self.piece_bytes, self._slack, STEP)

    def _whole(self, group: Group, first: int) -> list[np.ndarray]:
        """Return the pieces of all rows from one on: the same at each step that wants them all."""
        key = group.name, first
        found = self._pieces.get(key)
        if found is None:
            found = self._pieces[key] = self._cut(group, runs.between(first, group.rows))
        return found

    def _go_ahead(self, pieces: Iterator[tuple[Group, np.ndarray]]) -> None:
        """Read these ahead from now on."""
        self._ahead, self._next = pieces, deque()

    def _all_pieces(self, after: str = '') -> Iterator[tuple[Group, np.ndarray]]:
        """Yield the pieces of a step that wants every row, from the group after `after` on.

        Where the next step is to want every row, too, its pieces follow.
        """
        at, names = self._names.index(after) + 1 if after else 0, self._now
        while True:
            found = False
            for name in names[at:]:
                group = self._groups[name]
                first = self.heads.rows[name] - self.heads.missing(group)
                for rows in self._whole(group, first):
                    found = True
                    yield group, rows
            if not self._goes_on or not (found or at):
                return
            at, names = 0, self._names

    def _top_up(self, pending: deque) -> None:
        """Keep as many reads under way as there is memory for: what is in use stays as it is."""
        while len(self._flights) < _MOST_UNDER_WAY:
            if not pending and not self._next:
                self._next.extend(itertools.islice(self._ahead, 1))
            following = pending or self._next
            if not following or not self._launch(*following[0]):
                return
            following.popleft()

    def _launch(self, group: Group, rows: np.ndarray) -> bool:
        """Start reading a piece; False where there is no memory for it now."""
        count = runs.count(rows)
        room = padded(count) - count if _is_padded(group) else 0
        at = self._ring.take(count * group.row_bytes
                             + max(len(rows) * self._slack, room * group.row_bytes))
        if at is None:
            return False
        started = time.perf_counter()
        batch = self.reader.submit(self._file[group.name], group.extents(rows), self._buffer, at)
        self._flights.append(_Flight(group.name, rows, at, room, batch, started))
        return True

    def _arrivals(self, group: Group, early: bool) -> Iterator[_Arrived]:
        """Yield the oldest piece as it comes in; whole, or `early`, in parts.

        Few tokens are multiplied about as fast as a drive reads: they begin with what is there.
        """
        flight, done, looks = self._flights[0], 0, 0
        count = runs.count(flight.rows)
        weights = stored_rows.stored(self._view[flight.at:], group, count)
        # Whole tiles of the kernel: how they add up must not depend on the moment.
        part = max(_TILE, _EARLY_BYTES // group.row_bytes // _TILE * _TILE)
        while early and done + part < count and not flight.batch.ready:
            with self._waiting(group):
                came = flight.batch.wait_bytes((done + part) * group.row_bytes, LOOK_EVERY)
            looks += 1
            self._look(group.file, looks)
            there = min(came // group.row_bytes, count) // _TILE * _TILE
            if there >= done + part:
                yield _Arrived(runs.part(flight.rows, done, there),
                               weights[done:there], 0, False)
                done, looks = there, 0
        self._land(group, flight)
        rest = flight.rows if not done else runs.part(flight.rows, done, count)
        yield _Arrived(rest, weights[done:], flight.room, True)

    def _land(self, group: Group, flight: _Flight) -> None:
        """Wait for the oldest piece to its end, and enter it in the bill."""
        looks = 0
        with self._waiting(group):
            while (stats := flight.batch.wait(LOOK_EVERY)) is None:
                looks += 1
                self._look(group.file, looks)
        self._flights.popleft()
        self.drive.worked()
        self._enter(group, stats, flight.started)

    def _enter(self, group: Group, stats, started: float) -> None:
        """Enter a read that came to its end in the bill."""
        step, bill = self._step, self._step.bill
        bill.bytes_read += stats.bytes_read
        bill.bytes_used += stats.bytes_wanted
        bill.requests += stats.requests
        # Reads of several pieces overlap; their common time counts once. What was read before
        # the step began is not its time.
        done = started + stats.seconds
        begun = max(started, self._read_until, step.started)
        bill.read_seconds += max(0.0, done - begun)
        self._read_until = max(self._read_until, done)
        step.mark('read', group.name, started, done)

    def _look(self, file: str, looks: int) -> None:
        """Stop where the step is to end, or where the drive doesn't answer."""
        self._step.check()
        self.drive.look(file, looks, self._buffer.nbytes, self._rate)

    @contextlib.contextmanager
    def _waiting(self, group: Group) -> Iterator[None]:
        started = time.perf_counter()
        yield
        ended = time.perf_counter()
        self._step.bill.wait_seconds += ended - started
        self._step.mark('wait', group.name, started, ended)


def ring_size(bundle: Bundle, slack: int, wanted: int) -> tuple[int, int]:
    """Return the largest piece's bytes, and the ring's: three of them, padded by a quarter."""
    groups = bundle.multiplied.values()
    widest = max(group.row_bytes for group in groups)
    most = max(group.nbytes for group in groups) + slack
    piece = max(widest + slack, min(wanted, most))
    behind = max([STEP * group.row_bytes for group in groups if _is_padded(group)] or [0])
    return piece, 3 * -(-(piece + max(behind, piece // 4)) // _PAGE) * _PAGE


def _is_padded(group: Group) -> bool:
    """Whether rows may have others put behind them: not where they are widened elsewhere first.

    The LM head's are long, and it is nearly always few tokens that want it.
    """
    return not group.format.packed and group.name != LM_HEAD


def _same(flight: _Flight, group: Group, rows: np.ndarray) -> bool:
    return flight.group == group.name and (
        flight.rows is rows or np.array_equal(flight.rows, rows))
