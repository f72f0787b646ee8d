# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's weights as rows of a bundle: as they are, rounded, or in two parts.

Read in pieces; nothing of the size of an unpacked group is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.prepare.checkpoint import Checkpoint, Stored, read_pieces
from neuron_chunk_ros.storage.layout import GroupPlan, Member
from neuron_chunk_ros.storage.packed_rows import BLOCK, PACKED_FORMATS, PackedFormat, Split
from neuron_chunk_ros.storage.row_format import ROW_FORMATS, by_tag
from neuron_chunk_ros.storage.safetensors_header import ITEM_BYTES

COARSE_WORDS = 'int4-16'  # of an embedding table, for a drive that fails
_SAMPLED = 128  # output channels by which the bits of a base are chosen


def table(checkpoint: Checkpoint, plan: GroupPlan, dtype: str,
          tell: Callable[[int], None]) -> Iterator[np.ndarray]:
    """Yield a table's rows, which lie as they do in the checkpoint; `tell`: of bytes done."""
    stored, name = checkpoint.weight(plan.members[0].name)
    for piece in pieces(stored, name, dtype, plan.columns):
        rows = piece.view(ROW_FORMATS[dtype].storage).reshape(-1, plan.columns)
        yield rows
        tell(rows.nbytes)


def coarse_table(checkpoint: Checkpoint, plan: GroupPlan, dtype: str) -> Iterator[np.ndarray]:
    """Yield a table's rows, packed."""
    stored, name = checkpoint.weight(plan.members[0].name)
    for piece in pieces(stored, name, dtype, plan.columns):
        try:
            yield coarse_words(piece.view(ROW_FORMATS[dtype].storage).reshape(-1, plan.columns),
                               dtype)
        except OverflowError as error:
            raise ModelError(f'group {plan.name}: {error}') from error


def coarse_words(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Return what stands in for some rows of an embedding table, packed by COARSE_WORDS.

    Raises OverflowError where a value is not finite.
    """
    made = PACKED_FORMATS[COARSE_WORDS]
    return made.pack(*made.quantise(ROW_FORMATS[dtype].unpack(rows)))


def gathered(checkpoint: Checkpoint, plan: GroupPlan, dtype: str) -> np.ndarray:
    """Return a group [rows, columns] of its members' weights, each [its columns, rows]."""
    group = np.empty((plan.rows, plan.columns), ROW_FORMATS[dtype].storage)
    column = 0
    for member in plan.members:
        stored, name = checkpoint.weight(member.name)
        for piece in pieces(stored, name, dtype, plan.rows):
            block = piece.view(group.dtype).reshape(-1, plan.rows)
            group[:, column:column + len(block)] = block.T
            column += len(block)
    return group


def packed(checkpoint: Checkpoint, plan: GroupPlan, made: PackedFormat, kept: str) -> np.ndarray:
    """Return a group's rows rounded to integers, uint8 [rows, row bytes]; read as `kept`.

    Some output channels at a time: nothing of the size of the unpacked group is ever held.
    """
    rows, at = np.empty((plan.rows, made.row_bytes(plan.widths)), np.uint8), 0
    for member in plan.members:
        segment = rows[:, at:at + made.segment_bytes(member.columns)]
        for column, integers, scales in _rounded(checkpoint, plan, member, made, made.group, kept):
            made.pack_into(segment, member.columns, column, integers, scales)
        at += segment.shape[1]
    return rows


def in_two(checkpoint: Checkpoint, plan: GroupPlan, made: Split, kept: str
            ) -> tuple[np.ndarray, np.ndarray]:
    """Return the same in two parts: refinement and base."""
    parts = [np.empty((plan.rows, part.row_bytes(plan.widths)), np.uint8)
             for part in (made.refinement, made.base)]
    at, behind = 0, 0
    for member in plan.members:
        fine = parts[0][:, at:at + made.refinement.segment_bytes(member.columns)]
        coarse = parts[1][:, behind:behind + made.base.segment_bytes(member.columns)]
        for column, integers, scales in _rounded(checkpoint, plan, member, made, made.base.group,
                                                 kept):
            base, refinement = made.cut(integers)
            made.base.pack_into(coarse, member.columns, column, base, scales)
            low = made.refinement.pack(refinement)
            first = made.refinement.value_bytes(column)
            fine[:, first:first + low.shape[1]] = low
        at, behind = at + fine.shape[1], behind + coarse.shape[1]
    return parts[0], parts[1]


def _rounded(checkpoint: Checkpoint, plan: GroupPlan, member: Member, made: PackedFormat | Split,
             group: int, kept: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield a linear layer's integers and scales, and their first output channel."""
    stored, name = checkpoint.weight(member.name)
    had, column = ROW_FORMATS[kept], 0
    for piece in pieces(stored, name, kept, plan.rows * max(group, BLOCK)):
        block = piece.view(had.storage).reshape(-1, plan.rows)
        try:
            integers, scales = made.quantise(np.ascontiguousarray(had.unpack(block).T))
        except OverflowError as error:
            raise ModelError(f'group {plan.name}: {error}') from error
        yield column, integers, scales
        column += len(block)


def pieces(stored: Stored, name: str, dtype: str | None, row: int = 1) -> Iterator[np.ndarray]:
    """Read a tensor in pieces of whole rows of `row` elements, rounded to dtype."""
    tag = stored.entry.dtype
    had = by_tag(tag)
    if dtype is not None and had is None and name.endswith('.weight'):
        raise ModelError(f'{stored.path}: tensor {name} is {tag}, which cannot become {dtype}')
    for piece in read_pieces(stored, row * ITEM_BYTES[tag]):
        if had is None or dtype is None:
            yield piece
        elif had.name == dtype:
            yield piece.view(ROW_FORMATS[dtype].storage)
        else:
            try:
                yield ROW_FORMATS[dtype].pack(had.unpack(piece.view(had.storage)))
            except OverflowError as error:
                raise ModelError(f'{stored.path}: tensor {name} has a value that does not fit '
                                 f'{dtype}: choose bfloat16') from error


def some_weights(checkpoint: Checkpoint, plan: GroupPlan, kept: str) -> np.ndarray:
    """Return the weights of some output channels, float32 [rows, columns]."""
    stored, name = checkpoint.weight(plan.members[0].name)
    had = ROW_FORMATS[kept]
    piece = next(pieces(stored, name, kept, plan.rows)).view(had.storage).reshape(-1, plan.rows)
    return np.ascontiguousarray(had.unpack(piece[:_SAMPLED]).T)
