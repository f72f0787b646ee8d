# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Turning a Hugging Face model folder into a bundle, one group in memory at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from neuron_chunk_ros import __version__
from neuron_chunk_ros.errors import BundleError, ModelError
from neuron_chunk_ros.prepare import base_bits
from neuron_chunk_ros.prepare.checkpoint import Checkpoint, Stored, read_pieces
from neuron_chunk_ros.storage.atomic import check_target
from neuron_chunk_ros.storage.bundle import Bundle, GroupPlan, is_plain_name
from neuron_chunk_ros.storage.layout import BUNDLE_JSON, LAYOUTS, Member, base_name
from neuron_chunk_ros.storage.packed_rows import (
    BLOCK,
    PACKED_FORMATS,
    REFINEMENTS,
    PackedFormat,
    Split,
)
from neuron_chunk_ros.storage.row_format import FORMATS, ROW_FORMATS, by_tag
from neuron_chunk_ros.storage.safetensors_header import ITEM_BYTES
from neuron_chunk_ros.storage.writer import BundleWriter, ResidentTensor

CountProgress = Callable[[int, int], None]  # (done, in all): bytes, or in no unit

_COARSE_HEAD = Split(PACKED_FORMATS['int4-16'], REFINEMENTS['plus4'])
COARSE_WORDS = 'int4-16'  # of an embedding table, for a drive that fails
_SAMPLED = 128  # output channels by which the bits of a base are chosen
_MAX_COPIED_BYTES = 256 << 20  # far above any tokenizer


def convert(source: str | os.PathLike, target: str | os.PathLike, dtype: str | None = None,
            progress: CountProgress | None = None, name: str | None = None,
            layout: str = 'bundled', rows: str | None = None,
            lm_head: str | None = None, base: int | None = None,
            base_mb: int | None = None) -> Bundle:
    """Write the bundle of a model folder and return it, opened.

    dtype is 'bfloat16', 'float16', 'float32' or None for the checkpoint's own; it applies to the
    decoder's weights and, when given, to every other floating tensor. name is what answers call
    the model, by default the source folder's name. layout: 'bundled' stores linear layers that
    share an input row by row together, 'separate' stores each alone. rows: 'int8', 'int4' or
    another of PACKED_FORMATS packs the decoder's rows, rounded to nearest, None leaves them as
    they are. base: cuts rows of int5, int6 or int8 in two, a base of so many bits that is held in
    memory and a refinement of the others on flash. base_mb: instead, the memory that all bases may
    take [MiB]; each group's bits are then chosen, see base_bits.py. lm_head: the same as rows for
    the LM head, or 'int8/4' for rows in two parts; by default int8 where the decoder is packed, in
    4 + 4 where its rows are in two parts. The embedding table is stored by token as it is; with a
    base, coarse rows to be held beside it, for words that have to be known while the drive fails.
    Raises ModelError for a folder that can't be used, BundleError for a target that can't be
    written; either way nothing is left at the target.
    """
    source, target = Path(source), Path(target)
    if dtype is not None and dtype not in ROW_FORMATS:
        packed = f'; pack rows with --rows {dtype}' if dtype in PACKED_FORMATS else ''
        raise ModelError(f'dtype {dtype!r} is not one of {", ".join(ROW_FORMATS)}{packed}')
    if base is not None and base_mb is not None:
        raise ModelError('give the bits of a base or the memory for them, not both')
    # Of several to choose from, any: what else depends on it is the same.
    splits = _splits_of(rows) if base_mb is not None else [split_of(rows, base)] if base else []
    split = splits[0] if splits else None
    if split is None and rows is not None and rows not in PACKED_FORMATS:
        raise ModelError(f'rows {rows!r} are not one of {", ".join(PACKED_FORMATS)}')
    head_split = _COARSE_HEAD if split else None
    if lm_head is not None:
        head_split = split_of(*rows_and_base(lm_head)) if '/' in lm_head else None
        if head_split is None and lm_head not in FORMATS:
            raise ModelError(f'lm_head {lm_head!r} is not one of {", ".join(FORMATS)}, nor rows '
                             'in two parts such as int8/4')
    if layout not in LAYOUTS:
        raise ModelError(f'layout {layout!r} is not one of {", ".join(LAYOUTS)}')
    real = Path(os.path.realpath(source))
    if real in (Path(os.path.realpath(target)), *Path(os.path.realpath(target)).parents):
        raise ModelError(f'{target} lies inside the model folder {source}: choose another place')
    check_target(target, BundleError)  # before anything slow
    checkpoint = Checkpoint(source, layout)
    weights = {member.name + '.weight' for plan in checkpoint.plans for member in plan.members}
    kept = dtype or _common_dtype(checkpoint, weights)
    embedding, head = checkpoint.family.tables(checkpoint.config)
    head = _planned(head, head_split, lm_head or ('int8' if rows else kept))
    if split or head_split:
        embedding = replace(embedding, base=COARSE_WORDS)
    chosen = {}
    if base_mb is not None:
        tables = sum(table.rows * PACKED_FORMATS[table.base].row_bytes(table.widths)
                     for table in (embedding, head) if table.base)
        try:
            chosen = base_bits.choose(checkpoint.plans, splits,
                                      lambda plan: _some_weights(checkpoint, plan, kept),
                                      (base_mb << 20) - tables)
        except OverflowError as error:
            raise ModelError(f'{source}: {error}') from error
    plans = [_planned(plan, chosen.get(plan.name, split), rows or kept)
             for plan in checkpoint.plans] + [head]
    weights |= {embedding.members[0].name + '.weight', 'lm_head.weight'}
    resident = [_resident(name, stored, dtype) for name, stored in checkpoint.tensors.items()
                if name not in weights]
    copied = _files_to_copy(source)
    resident_bytes = sum(_nbytes(tensor) for tensor in resident)
    small_bytes = sum(path.stat().st_size for path in copied)
    writer = BundleWriter(target, checkpoint.family.name, kept, [embedding, *plans],
                          _provenance(checkpoint, dtype, name),
                          resident_bytes=resident_bytes + small_bytes + (1 << 20))
    total = resident_bytes + ROW_FORMATS[kept].item_bytes * sum(
        plan.rows * plan.columns for plan in [embedding, *plans])
    count = Counter(total, progress)
    with writer:
        for path in copied:
            writer.copy_file(path)
        writer.write_group(embedding.name, _table(checkpoint, embedding, kept, count))
        if embedding.base:
            writer.write_group(base_name(embedding.name), _coarse_table(checkpoint, embedding,
                                                                        kept))
        for plan in plans:
            made = _split_of(plan) if plan.base else FORMATS[plan.dtype]
            if plan.base:
                refinement, coarse = _in_two(checkpoint, plan, made, kept)
                writer.write_group(plan.name, refinement)
                writer.write_group(base_name(plan.name), coarse)
            elif made.packed:
                writer.write_group(plan.name, _packed(checkpoint, plan, made, kept))
            else:
                writer.write_group(plan.name, _gathered(checkpoint, plan, plan.dtype))
            count.add(plan.rows * plan.columns * ROW_FORMATS[kept].item_bytes)
        writer.write_resident(count.watch(tensor) for tensor in resident)
    return Bundle.open(target)


def _planned(plan: GroupPlan, split: Split | None, dtype: str) -> GroupPlan:
    """Return the plan with the format of its rows."""
    if split is None:
        return replace(plan, dtype=dtype)
    return replace(plan, dtype=split.refinement.name, base=split.base.name)


def _some_weights(checkpoint: Checkpoint, plan: GroupPlan, kept: str) -> np.ndarray:
    """Return the weights of some output channels, float32 [rows, columns]."""
    stored, name = checkpoint.weight(plan.members[0].name)
    had = ROW_FORMATS[kept]
    piece = next(_pieces(stored, name, kept, plan.rows)).view(had.storage).reshape(-1, plan.rows)
    return np.ascontiguousarray(had.unpack(piece[:_SAMPLED]).T)


def _split_of(plan: GroupPlan) -> Split:
    return Split(PACKED_FORMATS[plan.base], REFINEMENTS[plan.dtype])


def rows_and_base(name: str) -> tuple[str, int | None]:
    """Return what `convert` takes for 'int4', or for 'int8/4', rows in two parts.

    Raises ModelError for what it would not take.
    """
    rows, cut, base = name.partition('/')
    if not cut:
        if rows not in PACKED_FORMATS:
            raise ModelError(f"no packed rows '{rows}': choose from {', '.join(PACKED_FORMATS)}, "
                             'or rows in two parts such as int8/4')
        return rows, None
    if not base.isdigit():
        raise ModelError(f"'{name}' is no split: give rows and the bits of a base, as int8/4")
    split_of(rows, int(base))
    return rows, int(base)


def _splits_of(rows: str | None) -> list[Split]:
    """Return the ways to cut rows of so many bits, by rising bits of the base."""
    found = []
    for base in (2, 3, 4):
        with contextlib.suppress(ModelError):
            found.append(split_of(rows, base))
    return found or [split_of(rows, 2)]  # which says what there is


def split_of(rows: str | None, base: int) -> Split:
    """Return how rows of so many bits are cut. Raises ModelError for what isn't."""
    whole = {'int5': 5, 'int6': 6, 'int8': 8}.get(rows)
    coarse = PACKED_FORMATS.get(f'int{base}-16')
    if whole is None or coarse is None or coarse.bits == 8:
        raise ModelError(f'rows {rows!r} with a base of {base} bits: rows are int5, int6 or int8, '
                         'a base has 2, 3 or 4 bits')
    refinement = REFINEMENTS.get(f'plus{whole - base}')
    if refinement is None:
        raise ModelError(f'rows {rows!r} with a base of {base} bits: at least 2 bits have to be '
                         'left for the refinement')
    return Split(coarse, refinement)


def _common_dtype(checkpoint: Checkpoint, weights: set[str]) -> str:
    tags = sorted({checkpoint.tensors[name].entry.dtype for name in weights})
    if len(tags) > 1 or by_tag(tags[0]) is None:
        raise ModelError(f'{checkpoint.folder}: the decoder\'s weights are {" and ".join(tags)}; '
                         f'choose one of {", ".join(ROW_FORMATS)} with --dtype')
    return by_tag(tags[0]).name


def _table(checkpoint: Checkpoint, plan: GroupPlan, dtype: str,
           count: Counter) -> Iterator[np.ndarray]:
    """Yield a table's rows, which lie as they do in the checkpoint."""
    stored, name = checkpoint.weight(plan.members[0].name)
    for piece in _pieces(stored, name, dtype, plan.columns):
        rows = piece.view(ROW_FORMATS[dtype].storage).reshape(-1, plan.columns)
        yield rows
        count.add(rows.nbytes)


def _coarse_table(checkpoint: Checkpoint, plan: GroupPlan, dtype: str) -> Iterator[np.ndarray]:
    """Yield a table's rows, packed."""
    stored, name = checkpoint.weight(plan.members[0].name)
    for piece in _pieces(stored, name, dtype, plan.columns):
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


def _gathered(checkpoint: Checkpoint, plan: GroupPlan, dtype: str) -> np.ndarray:
    """Return a group [rows, columns] of its members' weights, each [its columns, rows]."""
    group = np.empty((plan.rows, plan.columns), ROW_FORMATS[dtype].storage)
    column = 0
    for member in plan.members:
        stored, name = checkpoint.weight(member.name)
        for piece in _pieces(stored, name, dtype, plan.rows):
            block = piece.view(group.dtype).reshape(-1, plan.rows)
            group[:, column:column + len(block)] = block.T
            column += len(block)
    return group


def _packed(checkpoint: Checkpoint, plan: GroupPlan, made: PackedFormat, kept: str) -> np.ndarray:
    """Return a group's rows rounded to integers, uint8 [rows, row bytes]; read as `kept`.

    Some output channels at a time: nothing of the size of the unpacked group is ever held.
    """
    packed, at = np.empty((plan.rows, made.row_bytes(plan.widths)), np.uint8), 0
    for member in plan.members:
        segment = packed[:, at:at + made.segment_bytes(member.columns)]
        for column, integers, scales in _rounded(checkpoint, plan, member, made, made.group, kept):
            made.pack_into(segment, member.columns, column, integers, scales)
        at += segment.shape[1]
    return packed


def _in_two(checkpoint: Checkpoint, plan: GroupPlan, made: Split, kept: str
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
    for piece in _pieces(stored, name, kept, plan.rows * max(group, BLOCK)):
        block = piece.view(had.storage).reshape(-1, plan.rows)
        try:
            integers, scales = made.quantise(np.ascontiguousarray(had.unpack(block).T))
        except OverflowError as error:
            raise ModelError(f'group {plan.name}: {error}') from error
        yield column, integers, scales
        column += len(block)


def _pieces(stored: Stored, name: str, dtype: str | None, row: int = 1) -> Iterator[np.ndarray]:
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


def _resident(name: str, stored: Stored, dtype: str | None) -> ResidentTensor:
    tag = stored.entry.dtype
    converted = dtype if by_tag(tag) else None
    return ResidentTensor(name, ROW_FORMATS[converted].tag if converted else tag,
                          stored.entry.shape, lambda: _pieces(stored, name, converted))


def _nbytes(tensor: ResidentTensor) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64)) * ITEM_BYTES[tensor.dtype]


def _files_to_copy(source: Path) -> list[Path]:
    """Choose config, tokenizer, processor, chat template and licence files; never code."""
    chosen = []
    for path in sorted(source.iterdir()):
        name = path.name
        wanted = (path.suffix in ('.json', '.jinja', '.txt', '.model')
                  or name.split('.')[0] in ('LICENSE', 'NOTICE'))
        if (wanted and is_plain_name(name) and name != BUNDLE_JSON
                and not name.endswith('.index.json') and path.is_file()
                and path.stat().st_size <= _MAX_COPIED_BYTES):
            chosen.append(path)
    return chosen


def _provenance(checkpoint: Checkpoint, dtype: str | None, name: str | None) -> dict:
    shards = sorted({stored.path for stored in checkpoint.tensors.values()})
    return {
        'tool': f'neuron_chunk_ros {__version__}',
        'source': name or Path(os.path.realpath(checkpoint.folder)).name,
        'shards': {path.name: path.stat().st_size for path in shards},
        'dtype_asked': dtype,
        'ignored_tensors': checkpoint.ignored,
    }


class Counter:
    """Reports bytes done, also from inside a tensor that is written in pieces."""

    def __init__(self, total: int, progress: CountProgress | None):
        self._done, self._total, self._progress = 0, total, progress

    def add(self, nbytes: int) -> None:
        """Count bytes done."""
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)

    def watch(self, tensor: ResidentTensor) -> ResidentTensor:
        """Return the tensor, made to count its pieces as they are written."""
        def pieces():
            for piece in tensor.data():
                yield piece
                self.add(piece.nbytes)
        return ResidentTensor(tensor.name, tensor.dtype, tensor.shape, pieces)
