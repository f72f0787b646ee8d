# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a model and a recipe to a bundle of packed rows, one decoder layer in memory at a time.

A layer is measured on what the layers ahead of it, compressed already, hand on to it.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from neuron_chunk_ros import __version__
from neuron_chunk_ros.compress.algorithms import Linear, Pruner
from neuron_chunk_ros.compress.exam import MOST_TOKENS, Exam
from neuron_chunk_ros.compress.recipe import Recipe, Rule
from neuron_chunk_ros.compress.report import GroupReport, Report
from neuron_chunk_ros.compress.segments import Segments, names_of
from neuron_chunk_ros.engine.rows import STORED
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import BundleError, ModelError, NeuronChunkError, RecipeError
from neuron_chunk_ros.prepare.checkpoint_rows import COARSE_WORDS, coarse_words
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.finite import check_bundle
from neuron_chunk_ros.prepare.layer_trials import Layer
from neuron_chunk_ros.prepare.layer_walk import Sample, Walk
from neuron_chunk_ros.prepare.rewrite import plans_of, resident_of
from neuron_chunk_ros.storage.atomic import ScratchFolder, check_target
from neuron_chunk_ros.storage.bundle import Bundle, Group
from neuron_chunk_ros.storage.layout import (
    BUNDLE_JSON,
    EMBEDDING,
    GroupPlan,
    base_name,
)
from neuron_chunk_ros.storage.packed_rows import BLOCK, Split
from neuron_chunk_ros.storage.row_format import ROW_FORMATS
from neuron_chunk_ros.storage.side_files import SideFiles
from neuron_chunk_ros.storage.source_groups import SourceGroups
from neuron_chunk_ros.storage.writer import BundleWriter

LARGEST_BLOCK = 4096   # input channels whose moments are known together
_MOST_MOMENTS = 40 << 20  # numbers that all blocks of a layer's inputs have together
_AT_ONCE = 1 << 23     # values of a weight that are looked at together

Progress = Callable[[float], None]  # the share that is done, 0 to 1
Columns = Callable[[int, int], np.ndarray]  # some elements of all of a group's rows, as stored


def compress(source: str | os.PathLike, target: str | os.PathLike, recipe: Recipe,
             samples: Iterable[Sample], *, device: str = 'cpu', name: str | None = None,
             exam: Exam | None = None, progress: Progress | None = None,
             allow_non_finite: bool = False) -> tuple[Bundle, Report]:
    """Write a compressed bundle and return it, opened, with a report.

    :param source: a Hugging Face folder, or a bundle in its original order whose rows are not
        packed. A folder is converted beside the target first, and the copy removed at the end.
    :param samples: (prompt, images uint8 [height, width, 3] RGB) each, to calibrate on.
    :param exam: asked of the source and of the compressed model, for the report.
    :param allow_non_finite: take weights that are NaN or infinite, where their rows are not
        rounded; they are refused otherwise.
    :raises RecipeError: for rules that contradict each other.
    :raises RequestError: for no sample at all, or one that can't be used.
    :raises ModelError, BundleError, ReadError: see errors.py. Nothing is left at the target, but
        the bundle, where no more than the exam of it failed.
    """
    target = Path(target)
    check_target(target, BundleError)
    tell = progress or (lambda share: None)
    with _unpacked(Path(source), target, name, tell, allow_non_finite) as bundle:
        plans = [_plan(bundle, plan, recipe) for plan in plans_of(bundle)]
        if any(plan.base for plan in plans):
            plans = [replace(plan, base=COARSE_WORDS) if plan.name == EMBEDDING else plan
                     for plan in plans]
        work = _Work(bundle, recipe, {plan.name: plan for plan in plans})
        files = SideFiles.of_bundle(bundle)
        small = files.nbytes
        provenance = {**bundle.provenance, 'recipe': recipe.name, 'recipe_text': recipe.text,
                      'compressed_by': f'neuron_chunk_ros {__version__}'}
        writer = BundleWriter(target, bundle.family, bundle.dtype, plans, provenance,
                              resident_bytes=bundle.resident_bytes + small + (1 << 20),
                              attention=bundle.attention)
        with writer, SourceGroups(bundle) as sources:
            writer.copy_side_files(files)
            if bundle.embedding is not None:
                writer.write_group(EMBEDDING, sources.rows(bundle.embedding))
                if work.plans[EMBEDDING].base:
                    writer.write_group(base_name(EMBEDDING), (
                        coarse_words(rows, bundle.embedding.dtype)
                        for rows in sources.rows(bundle.embedding)))
            _decoder(work, writer, sources, samples, device, tell)
            writer.write_resident(resident_of(bundle))
        if exam is not None:
            try:
                for after, asked in enumerate((bundle.path, target)):
                    _take(exam, asked, bool(after), device)
            except NeuronChunkError as error:
                raise type(error)(f'{error} (in the exam: {target} is written, and whole)'
                                  ) from error
            work.report.answers = exam.answers
        tell(1.0)
    return Bundle.open(target), work.report


def _take(exam: Exam, bundle: Path, after: bool, device: str) -> None:
    with Session.open(bundle, device=device) as session:
        exam.ask(lambda prompt, images: session.ask(
            prompt, images, max_new_tokens=MOST_TOKENS).text, after)


@contextlib.contextmanager
def _unpacked(source: Path, target: Path, name: str | None, tell: Progress,
              allow_non_finite: bool) -> Iterator[Bundle]:
    """Give the source as a bundle; a folder's is removed at the end."""
    if (source / BUNDLE_JSON).exists():
        bundle = Bundle.open(source)
        packed = any(group.format.packed for group in bundle.multiplied.values())
        if packed or bundle.orders_file is not None:
            raise BundleError(f'{source}: a bundle to compress has all its rows, plain, in their '
                              f'original order; this one has {bundle.rows} rows in '
                              f'{bundle.order} order, a packed LM head, or was pruned')
        if not allow_non_finite:
            check_bundle(bundle)
        yield bundle
        return
    with ScratchFolder(target) as scratch:
        yield convert(source, scratch.folder / 'source', name=name,
                      allow_non_finite=allow_non_finite,
                      progress=lambda done, total: tell(0.1 * done / total))


def _plan(bundle: Bundle, plan: GroupPlan, recipe: Recipe) -> GroupPlan:
    """Return the plan with the row format that the recipe gives it."""
    rules = {member.name: recipe.rule(member.name) for member in plan.members}
    if plan.name not in bundle.multiplied:
        return plan
    try:
        formats = {names_of(rule.weights.stored) if rule and rule.weights else (plan.dtype, '')
                   for rule in rules.values()}
    except ValueError as error:
        raise RecipeError(f'{recipe.name}: {plan.name}: {error}') from error
    pruners = {id(rule.pruner) if rule and rule.pruner and rule.pruner.whole else None
               for rule in rules.values()}
    if len(formats) > 1 or len(pruners) > 1:
        names = ', '.join(member.name.rpartition('.')[2] for member in plan.members)
        raise RecipeError(f'{recipe.name}: {names} of {plan.name} are stored row by row together '
                          'and need the same bits, group and row pruner; or convert the model '
                          'with --layout separate and compress that bundle')
    dtype, base = formats.pop()
    plan, pruner = replace(plan, dtype=dtype, base=base), _row_pruner(next(iter(rules.values())))
    if pruner is None or pruner.count(plan.rows) == plan.rows:
        return plan
    return replace(plan, rows=pruner.count(plan.rows), inputs=plan.rows)


class _Work:
    """A recipe on its way through a bundle."""

    def __init__(self, bundle: Bundle, recipe: Recipe, plans: dict[str, GroupPlan]):
        self.bundle, self.recipe, self.plans = bundle, recipe, plans
        self.report = Report(recipe.name, 0)

    def group(self, group: Group, stored: Columns, moments: list[np.ndarray],
              replace_with: torch.Tensor | None) -> tuple[list[np.ndarray], np.ndarray | None]:
        """Return a group's new rows, and which input channels have one, None for all.

        Rows in two parts: refinements and bases.

        :param stored: returns some columns of its rows as they are: (first, how many).
        :param moments: of its inputs, see algorithms.Linear.
        :param replace_with: what the layer multiplies by, [rows, columns]; overwritten.
        """
        plan, had = self.plans[group.name], ROW_FORMATS[group.dtype]
        kept_rows = None
        rules = [self.recipe.rule(member.name) for member in plan.members]
        scratch: dict = {}
        pruner = _row_pruner(rules[0])
        if pruner:
            kept_rows = _rows_kept(pruner, Linear(
                group.name, had.unpack(stored(0, group.columns)), moments, scratch=scratch), plan)
        error, segments = _Error(moments), Segments(plan, group.rows)
        left, zeros = 0, 0
        for member, rule in zip(plan.members, rules, strict=True):
            segments.begin(member.columns)
            for first, columns in _parts(rule, segments.made, group.rows, member.columns):
                chosen = slice(left + first, left + first + columns)
                weight = had.unpack(np.ascontiguousarray(stored(left + first, columns)))
                if rule and rule.weights and not np.isfinite(weight).all():
                    raise ModelError(f'{member.name}: a weight that is not finite can not be '
                                     'rounded')
                linear = Linear(member.name, weight, moments, scratch=scratch)
                values = self._values(linear, rule, kept_rows, segments, first)
                zeros += int((values == 0).sum())
                error.add(weight, values)
                if replace_with is not None:
                    with torch.inference_mode():
                        replace_with[:, chosen] = torch.from_numpy(values).to(replace_with.dtype)
            left += member.columns
        rows = segments.arrays
        bits = max((rule.weights.split.bits if rule.weights.split else rule.weights.grid.bits
                    for rule in rules if rule and rule.weights), default=0)
        self.report.groups.append(GroupReport(
            group.name, bits, plan.rows, group.rows - plan.rows, zeros / (group.rows * left),
            plan.rows * sum(part[0].nbytes for part in rows), group.nbytes, error.relative()))
        if kept_rows is None or kept_rows.all():
            return rows, None
        return [part[kept_rows] for part in rows], np.flatnonzero(kept_rows).astype(np.int32)

    def _values(self, linear: Linear, rule: Rule | None, kept_rows: np.ndarray | None,
                segments: Segments, first: int) -> np.ndarray:
        """Prune and round some outputs, lay them out, return their values."""
        if rule and rule.pruner:
            linear.kept = (rule.pruner.keep(linear) if kept_rows is None else
                           np.broadcast_to(kept_rows[:, None], linear.weight.shape))
            linear.unpruned = linear.weight
            linear.weight = np.where(linear.kept, linear.weight, 0)
        if rule is None or rule.weights is None:
            segments.put(first, ROW_FORMATS[self.bundle.dtype].pack(linear.weight))
            return linear.weight
        grid = rule.weights.grid
        integers, scales = rule.weights.quantiser.quantise(linear, grid)
        _check(integers, scales, linear, grid, rule.weights.name)
        if linear.kept is not None:
            integers = np.where(linear.kept, integers, 0).astype(np.int8)
        split = rule.weights.split
        if split is None:
            segments.put(first, integers, scales)
            return grid.values(integers, scales)
        # As near to the weight as the base leaves it: a refinement reaches half a step of it.
        step = grid.each(scales, integers.shape[1]) / np.float32(1 << split.refinement.bits)
        with np.errstate(divide='ignore', invalid='ignore'):
            fine = np.where(step == 0, 0, np.rint(linear.weight / step))
        middle = integers.astype(np.int16) << split.refinement.bits
        # Half a step up is the next integer of the base half a step down.
        integers = np.where((fine == middle - split.refinement.least) & (integers < grid.largest),
                            integers + 1, integers).astype(np.int8)
        middle = integers.astype(np.int16) << split.refinement.bits
        fine = fine.clip(np.maximum(middle + split.refinement.least, -(1 << split.bits - 1)),
                         middle - split.refinement.least - 1).astype(np.int16)
        segments.put(first, integers, scales, fine)
        return fine * step


def _row_pruner(rule: Rule | None) -> Pruner | None:
    return rule.pruner if rule and rule.pruner and rule.pruner.whole else None


def _rows_kept(pruner: Pruner, linear: Linear, plan: GroupPlan) -> np.ndarray:
    """Return which input channels stay, bool [inputs]. Raises RecipeError for a wrong number."""
    kept = pruner.keep(linear)
    rows = kept[:, 0].copy()
    if (kept != rows[:, None]).any() or rows.sum() != plan.rows:
        raise RecipeError(f'pruner {type(pruner).__name__}: of {linear.name} it keeps '
                          f'{int(rows.sum())} rows, or parts of some, and counted {plan.rows}')
    return rows


def _check(integers: np.ndarray, scales: np.ndarray, linear: Linear, grid, name: str) -> None:
    """Refuse what a user's quantiser made that fits no grid."""
    rows, columns = linear.weight.shape
    groups = -(-columns // grid.format.group)
    if (getattr(integers, 'shape', None) != (rows, columns) or integers.dtype != np.int8
            or getattr(scales, 'shape', None) != (rows, groups)):
        raise RecipeError(f'quantiser {name}: of {linear.name} it returned '
                          f'{getattr(integers, "dtype", type(integers))} '
                          f'{list(getattr(integers, "shape", []))} and scales '
                          f'{list(getattr(scales, "shape", []))}, want int8 {[rows, columns]} and '
                          f'{[rows, groups]}')
    if integers.min() < grid.least or integers.max() > grid.largest:
        raise RecipeError(f'quantiser {name}: of {linear.name} it returned integers of '
                          f'{integers.min()} to {integers.max()}, {grid.bits} bits hold '
                          f'{grid.least} to {grid.largest}')
    if not np.isfinite(scales).all():
        raise RecipeError(f'quantiser {name}: of {linear.name} a scale is not finite')


def _parts(rule: Rule | None, made, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Yield (first output, outputs) of what is looked at together."""
    whole = rule and rule.weights and not isinstance(rule.weights.grid.shared, int)
    made = made.base if isinstance(made, Split) else made
    unit = max(made.group, BLOCK) if made.packed else 1
    some = columns if whole else max(unit, _AT_ONCE // rows // unit * unit)
    for first in range(0, columns, some):
        yield first, min(some, columns - first)


class _Error:
    """What rounding does to outputs, from the moments of inputs."""

    def __init__(self, moments: list[np.ndarray]):
        self._moments = [torch.from_numpy(block) for block in moments]
        self._off = self._all = 0.0

    def add(self, weight: np.ndarray, values: np.ndarray) -> None:
        first = 0
        for block in self._moments:
            rows = slice(first, first + len(block))
            want = torch.from_numpy(weight[rows])
            off = torch.from_numpy(values[rows]) - want
            self._off += float((off * (block @ off)).sum(dtype=torch.float64))
            self._all += float((want * (block @ want)).sum(dtype=torch.float64))
            first = rows.stop

    def relative(self) -> float:
        return math.sqrt(max(self._off, 0.0) / self._all) if self._all > 0 else math.nan


class _Measured(Layer):
    """A layer that learns its inputs' second moments as it runs dense."""

    def run_dense(self) -> None:
        self.moments = {group.name: Moments(group.rows) for group in self.groups}
        self.learning = True
        super().run_dense()
        self.learning = False

    def multiply(self, group: Group, inputs: torch.Tensor) -> torch.Tensor:
        if self.learning:
            self.moments[group.name].add(inputs)
        return inputs @ self.weights[group.name]

    def run_again(self) -> None:
        """Compute the outputs anew, with the weights as they are now."""
        with torch.inference_mode():
            self.dense = [self._run(index) for index in range(len(self.batches))]


class Moments:
    """Mean of x x^T over tokens, in blocks down the diagonal."""

    def __init__(self, rows: int):
        most = min(LARGEST_BLOCK, max(256, _MOST_MOMENTS // rows))
        count = -(-rows // most)
        ends = [rows * number // count for number in range(count + 1)]
        self._slices = [slice(*pair) for pair in zip(ends, ends[1:], strict=False)]
        self._sums = [torch.zeros(s.stop - s.start, s.stop - s.start) for s in self._slices]
        self.tokens = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Take in tokens, [tokens, rows]."""
        self.tokens += len(inputs)
        for chosen, total in zip(self._slices, self._sums, strict=True):
            part = inputs[:, chosen].cpu().float()
            total.addmm_(part.t(), part)

    def mean(self) -> list[np.ndarray]:
        """Return the blocks; nothing may be added any more."""
        with torch.inference_mode():  # where they were made; what follows may want gradients
            return [total.div_(max(1, self.tokens)).numpy() for total in self._sums]


def _decoder(work: _Work, writer: BundleWriter, sources: SourceGroups, samples: Iterable[Sample],
             device: str, tell: Progress) -> None:
    bundle = work.bundle
    with Walk(bundle, device, images_needed=False) as walk:
        # The LM head counts as one layer more.
        parts = walk.layers + (bundle.lm_head is not None)
        done = 0
        for layer in walk.run(samples, _Measured):  # enumerate would hold on to the last one
            for group in layer.groups:
                moments = layer.moments.pop(group.name)
                work.report.tokens = moments.tokens
                weights = layer.weights[group.name]
                _write(writer, group, *work.group(
                    group, _columns(group, weights, sources), moments.mean(), weights))
            layer.run_again()
            del layer, weights, moments  # before the next one is loaded
            done += 1
            tell(0.1 + 0.9 * done / parts)
        if bundle.lm_head is not None:
            moments = Moments(bundle.lm_head.rows)
            for hidden in walk.normalised():
                moments.add(hidden)
            head = bundle.lm_head
            for _ in sources.rows(head):  # checked, before it is read by columns
                pass
            _write(writer, head, *work.group(
                head, lambda first, count: sources.columns(head, first, count), moments.mean(),
                None))


def _write(writer: BundleWriter, group: Group, rows: list[np.ndarray],
           kept: np.ndarray | None) -> None:
    writer.write_group(group.name, rows[0], kept)
    for base in rows[1:]:
        writer.write_group(base_name(group.name), base)


def _columns(group: Group, weights: torch.Tensor, sources: SourceGroups) -> Columns:
    """Return what reads a group's rows as they are stored.

    Where they are computed with in that type, out of memory; they may be replaced by and by.
    """
    if weights.dtype == STORED[group.dtype] and weights.device.type == 'cpu':
        stored = weights.view(torch.uint16 if weights.element_size() == 2 else torch.float32)
        stored = stored.numpy().view(group.format.storage)
    else:
        stored = sources.load([group])[group.name]
    return lambda first, count: stored[:, first:first + count]
