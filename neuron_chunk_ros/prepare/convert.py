# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Turning a Hugging Face model folder into a bundle, one group in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from neuron_chunk_ros import __version__
from neuron_chunk_ros.errors import BundleError, ModelError
from neuron_chunk_ros.families import prompt_builder
from neuron_chunk_ros.prepare.checkpoint import Checkpoint, Stored
from neuron_chunk_ros.prepare.checkpoint_rows import (
    COARSE_WORDS,
    coarse_table,
    gathered,
    in_two,
    packed,
    pieces,
    some_weights,
    table,
)
from neuron_chunk_ros.prepare.finite import check_checkpoint
from neuron_chunk_ros.prepare.splits import COARSE_HEAD, choose, rows_and_base, split_of, splits_of
from neuron_chunk_ros.storage.atomic import check_target
from neuron_chunk_ros.storage.bundle import Bundle, GroupPlan
from neuron_chunk_ros.storage.layout import LAYOUTS, base_name
from neuron_chunk_ros.storage.packed_rows import PACKED_FORMATS, REFINEMENTS, Split
from neuron_chunk_ros.storage.row_format import FORMATS, ROW_FORMATS, by_tag
from neuron_chunk_ros.storage.safetensors_header import ITEM_BYTES
from neuron_chunk_ros.storage.side_files import SideFiles
from neuron_chunk_ros.storage.writer import BundleWriter, ResidentTensor

CountProgress = Callable[[int, int], None]  # (done, in all): bytes, or in no unit


def convert(source: str | os.PathLike, target: str | os.PathLike, dtype: str | None = None,
            progress: CountProgress | None = None, name: str | None = None,
            layout: str = 'bundled', rows: str | None = None,
            lm_head: str | None = None, base: int | None = None,
            base_mb: int | None = None, allow_non_finite: bool = False) -> Bundle:
    """Write the bundle of a model folder and return it, opened.

    dtype is 'bfloat16', 'float16', 'float32' or None for the checkpoint's own; it applies to the
    decoder's weights and, when given, to every other floating tensor. name is what answers call
    the model, by default the source folder's name. layout: 'bundled' stores linear layers that
    share an input row by row together, 'separate' stores each alone. rows: 'int8', 'int4' or
    another of PACKED_FORMATS packs the decoder's rows, rounded to nearest, None leaves them as
    they are. base: cuts rows of int5, int6 or int8 in two, a base of so many bits that is held in
    memory and a refinement of the others on flash. base_mb: instead, the memory that all bases may
    take [MiB]; each group's bits are then chosen, see splits.py. lm_head: the same as rows for
    the LM head, or 'int8/4' for rows in two parts; by default int8 where the decoder is packed, in
    4 + 4 where its rows are in two parts. The embedding table is stored by token as it is; with a
    base, coarse rows to be held beside it, for words that have to be known while the drive fails.
    allow_non_finite: take weights that are NaN or infinite, which are refused otherwise.
    Raises ModelError for a folder that can't be used, BundleError for a target that can't be
    written; either way nothing is left at the target.
    """
    source, target = Path(source), Path(target)
    if dtype is not None and dtype not in ROW_FORMATS:
        hint = f'; pack rows with --rows {dtype}' if dtype in PACKED_FORMATS else ''
        raise ModelError(f'dtype {dtype!r} is not one of {", ".join(ROW_FORMATS)}{hint}')
    if base is not None and base_mb is not None:
        raise ModelError('give the bits of a base or the memory for them, not both')
    # Of several to choose from, any: what else depends on it is the same.
    splits = []
    if base_mb is not None:
        splits = splits_of(rows)
    elif base is not None:
        splits = [split_of(rows, base)]
    split = splits[0] if splits else None
    if split is None and rows is not None and rows not in PACKED_FORMATS:
        raise ModelError(f'rows {rows!r} are not one of {", ".join(PACKED_FORMATS)}')
    head_split = COARSE_HEAD if split else None
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
    checked = 0 if allow_non_finite else sum(
        stored.entry.nbytes for stored in checkpoint.tensors.values()
        if by_tag(stored.entry.dtype))
    embedding, head = checkpoint.family.tables(checkpoint.config)
    weights |= {embedding.members[0].name + '.weight', 'lm_head.weight'}
    resident = [_resident(name, stored, dtype) for name, stored in checkpoint.tensors.items()
                if name not in weights]
    head = _planned(head, head_split, lm_head or ('int8' if rows else kept))
    if split or head_split:
        embedding = replace(embedding, base=COARSE_WORDS)
    count = Counter(checked + sum(map(_nbytes, resident)) + ROW_FORMATS[kept].item_bytes * sum(
        plan.rows * plan.columns for plan in [embedding, *checkpoint.plans, head]), progress)
    if not allow_non_finite:
        check_checkpoint(checkpoint, count.add)  # before anything is written
    chosen = {}
    if base_mb is not None:
        tables = sum(one.rows * PACKED_FORMATS[one.base].row_bytes(one.widths)
                     for one in (embedding, head) if one.base)
        try:
            chosen = choose(checkpoint.plans, splits,
                            lambda plan: some_weights(checkpoint, plan, kept),
                            (base_mb << 20) - tables)
        except OverflowError as error:
            raise ModelError(f'{source}: {error}') from error
    plans = [_planned(plan, chosen.get(plan.name, split), rows or kept)
             for plan in checkpoint.plans] + [head]
    files = SideFiles.of_model(source)
    # Whoever asks would meet what's wrong with tokenizer, template and processor only then.
    prompt_builder(checkpoint.family.name, files,
                   checkpoint.family.config(checkpoint.config))
    resident_bytes = sum(_nbytes(tensor) for tensor in resident)
    small_bytes = files.nbytes
    writer = BundleWriter(target, checkpoint.family.name, kept, [embedding, *plans],
                          _provenance(checkpoint, dtype, name),
                          resident_bytes=resident_bytes + small_bytes + (1 << 20))
    with writer:
        writer.copy_side_files(files)
        writer.write_group(embedding.name, table(checkpoint, embedding, kept, count.add))
        if embedding.base:
            writer.write_group(base_name(embedding.name),
                               coarse_table(checkpoint, embedding, kept))
        for plan in plans:
            made = _split_of(plan) if plan.base else FORMATS[plan.dtype]
            if plan.base:
                refinement, coarse = in_two(checkpoint, plan, made, kept)
                writer.write_group(plan.name, refinement)
                writer.write_group(base_name(plan.name), coarse)
            elif made.packed:
                writer.write_group(plan.name, packed(checkpoint, plan, made, kept))
            else:
                writer.write_group(plan.name, gathered(checkpoint, plan, plan.dtype))
            count.add(plan.rows * plan.columns * ROW_FORMATS[kept].item_bytes)
        writer.write_resident(count.watch(tensor) for tensor in resident)
    return Bundle.open(target)


def _planned(plan: GroupPlan, split: Split | None, dtype: str) -> GroupPlan:
    """Return the plan with the format of its rows."""
    if split is None:
        return replace(plan, dtype=dtype)
    return replace(plan, dtype=split.refinement.name, base=split.base.name)


def _split_of(plan: GroupPlan) -> Split:
    return Split(PACKED_FORMATS[plan.base], REFINEMENTS[plan.dtype])


def _common_dtype(checkpoint: Checkpoint, weights: set[str]) -> str:
    tags = sorted({checkpoint.tensors[name].entry.dtype for name in weights})
    if len(tags) > 1 or by_tag(tags[0]) is None:
        raise ModelError(f'{checkpoint.folder}: the decoder\'s weights are {" and ".join(tags)}; '
                         f'choose one of {", ".join(ROW_FORMATS)} with --dtype')
    return by_tag(tags[0]).name


def _resident(name: str, stored: Stored, dtype: str | None) -> ResidentTensor:
    tag = stored.entry.dtype
    converted = dtype if by_tag(tag) else None
    return ResidentTensor(name, ROW_FORMATS[converted].tag if converted else tag,
                          stored.entry.shape, lambda: pieces(stored, name, converted))


def _nbytes(tensor: ResidentTensor) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64)) * ITEM_BYTES[tensor.dtype]


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
