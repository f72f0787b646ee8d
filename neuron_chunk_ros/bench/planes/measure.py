# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Error against bytes read at equal memory: rows left out, hot rows held, bases held."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from neuron_chunk_ros.bench.planes.exams import Judge
from neuron_chunk_ros.bench.planes.sharing import Reading, SharedRows, hot_orders
from neuron_chunk_ros.bench.statistics import Interval
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.restore import restore
from neuron_chunk_ros.prepare.splits import rows_and_base
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.packed_rows import PACKED_FORMATS

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PlanesOptions:
    """What is compared."""

    splits: tuple[str, ...] = ('int8/4', 'int8/3')   # FORMAT/bits of the base
    refined: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 1.0)   # shares of rows
    read: tuple[float, ...] = (0.5, 0.7, 0.9)        # shares of rows where the rest is left out
    out: tuple[float, ...] = (0.1, 0.2)  # shares left out beside those refined and coarse
    held: bool = True   # whether the same memory is tried with hot rows in it


@dataclass(frozen=True)
class Point:
    """One way to read, one exam."""

    exam: str
    mode: str               # who chooses rows
    how: str                # 'plain', 'left out', 'hot rows held', 'base of 4 bits held'
    share: float            # of the rows that aren't held
    memory: int             # bytes of the decoder that are held
    nbytes: int             # read for a step that chooses
    value: float
    error: Interval
    unit: str               # of the error


def measure(name: str, judge: Judge, folder: Path, model, scratch: Path, options: PlanesOptions,
            progress: Progress) -> Iterator[Point]:
    """Yield what came of each way.

    :param folder: the model's Hugging Face folder.
    :param model: itself, in the dtype to compute in; its decoder's weights are replaced.
    :param scratch: for bundles, which are removed.
    """
    def told(label: str) -> Callable[[], None]:
        done = iter(range(1, len(judge) + 1))
        return lambda: progress(f'{name}, {label}', next(done), len(judge))

    plain = judge.answer(model, judge.modes[0], lambda units: None, told('plain'))
    for mode in judge.modes:
        yield Point(name, mode, 'plain', 1.0, 0, 0, judge.value(plain),
                    judge.against(plain, plain), judge.unit)
    for number, split in enumerate(options.splits):
        rows, base = rows_and_base(split)
        bundle = scratch / 'planes'
        convert(folder, bundle, 'bfloat16', rows=rows, base=base)
        try:
            opened = Bundle.open(bundle)
            coarse = _take(opened, model)
        finally:
            shutil.rmtree(bundle)
        groups = list(opened.groups.values())
        orders = hot_orders(model, groups, lambda: judge.hear(model))
        with SharedRows(model, groups, coarse, orders) as rows_read:
            for how, reading, memory, nbytes in _ways(opened, rows, options, first=not number):
                for mode in judge.modes:
                    rows_read.reading = reading
                    scores = judge.answer(model, mode, rows_read.enter, told(
                        f'{mode}: {how}, {reading.share:.0%}'))
                    yield Point(name, mode, how, reading.share, memory, nbytes,
                                judge.value(scores), judge.against(scores, plain),
                                judge.unit)


def _ways(opened: Bundle, rows: str, options: PlanesOptions, first: bool
          ) -> Iterator[tuple[str, Reading, int, int]]:
    """Yield (how, what is read, bytes held, bytes read) of all that one split is good for."""
    groups = opened.groups.values()
    bits = next(iter(groups)).base.format.bits
    base = sum(group.base.rows * group.base.row_bytes for group in groups)
    fine = sum(group.rows * group.row_bytes for group in groups)
    whole = sum(group.rows * PACKED_FORMATS[rows].row_bytes(group.widths) for group in groups)
    for share in options.refined:
        yield (f'base of {bits} bits held', Reading(share, coarse=True), base, round(share * fine))
    if not first:
        return  # the others hold the memory of the first split's bases
    for out in options.out:
        yield (f'the same, {out:.0%} left out', Reading(0.3, coarse=True, out=out), base,
               round(0.3 * fine))
    for share in options.refined if options.held else ():
        if share == 1:
            continue  # the same as bases with everything refined
        held = base / whole
        yield ('hot rows held', Reading(share, held), base, round(share * (whole - base)))
    for share in options.read:
        yield 'left out', Reading(share), 0, round(share * whole)


def _take(opened: Bundle, model) -> dict[str, torch.Tensor]:
    """Give a model the bundle's weights; return its linear layers' from bases alone."""
    names = {member.name for group in opened.groups.values() for member in group.members}
    fine = restore(opened.path)
    with torch.no_grad():
        for name in (*names, 'lm_head'):
            source = fine.get_submodule(name).weight
            model.get_submodule(name).weight = torch.nn.Parameter(
                source.to(model.dtype), requires_grad=False)
    del fine
    rough = restore(opened.path, coarse=True)
    return {name: rough.get_submodule(name).weight.detach().to(model.dtype) for name in names}
