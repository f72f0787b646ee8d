# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy against the time that reading takes, on the shipped model.

Answers come from the model in memory, with the activations of rows that would not be read set to
0. Its own matrices are too small to time: each selection is made, and its reads are timed, as if
the model's rows had the length of a real decoder's (its groups keep their number of rows).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from neuron_chunk_ros.bench.accuracy.masking import FrameMasks
from neuron_chunk_ros.bench.accuracy.selecting import FrameSelections, Select, as_runs
from neuron_chunk_ros.bench.accuracy.variants import (
    CONTESTANTS,
    DENSE,
    DEVICES,
    Contestant,
    Variant,
    simulated,
)
from neuron_chunk_ros.bench.progress import Counter, Progress
from neuron_chunk_ros.bench.scratch import ScratchLayers, scratch
from neuron_chunk_ros.bench.shapes import DECODERS, LAYOUTS, Input, Matrix
from neuron_chunk_ros.bench.tabletop_model import KIND, Calibrated
from neuron_chunk_ros.bench.timing import READERS, Readers, in_turns
from neuron_chunk_ros.chunking import make_policy, runs
from neuron_chunk_ros.chunking.deadline import spend
from neuron_chunk_ros.chunking.policies import Policy
from neuron_chunk_ros.storage.profile import Profile
from neuron_chunk_ros.storage.reader import Reader
from neuron_chunk_ros.storage.scratch_file import scratch_file
from neuron_chunk_ros.tabletop.exam import Exam

GRID = tuple(tenth / 10 for tenth in range(8))
SIMULATED_BLOCK = 512  # NVMe drives' logical block


@dataclass(frozen=True)
class AccuracyOptions:
    """What to measure."""

    folder: Path
    profile: Profile
    decoders: tuple[str, ...] = tuple(DECODERS)   # whose rows' length is taken
    sparsities: tuple[float, ...] = GRID          # of the decoder, weighted by parameters
    scenes: int = 150              # of one view; as many prompts of each sort with several
    repeats: int = 30              # frames timed, each once by everyone
    samples: int = 24              # to calibrate on
    file_bytes: int = 512 << 20    # as many copies of the decoder as fit, at least one
    seed: int = 1_000_033          # of the questions
    calibration_seed: int = 40_009
    backend: str = 'auto'
    devices: tuple[str, ...] = DEVICES


@dataclass(frozen=True)
class ExamOutcome:
    """What came of one way of choosing."""

    right: np.ndarray = field(repr=False)                     # bool [questions]
    read: list[np.ndarray] = field(repr=False)                # of each group, bool [frames, rows]
    kept: float                                               # share of the importance

    @property
    def rows(self) -> float:
        """Share of the rows read, mean over groups."""
        return float(np.mean([read.mean() for read in self.read]))


@dataclass(frozen=True)
class TimedReading:
    """One contestant's reads for a frame, at one sparsity."""

    decoder: str
    contestant: Contestant
    sparsity: float
    estimated: np.ndarray = field(repr=False)  # float64 [repeats] seconds, by the profile
    seconds: np.ndarray = field(repr=False)    # float64 [repeats]
    place: np.ndarray = field(repr=False)      # int64 [repeats], its turn among all


class Evaluation:
    """Answers the exam under one variant after another; remembers outcomes."""

    def __init__(self, options: AccuracyOptions, model, exam: Exam, calibrated: Calibrated,
                 block_size: int):
        """`block_size`: bytes that this machine's reads are multiples of."""
        self._options, self._model, self._exam = options, model, exam
        self._calibrated, self._block_size = calibrated, block_size
        self._outcomes: dict[tuple, ExamOutcome] = {}

    def keys(self) -> list[tuple[Variant, str, float]]:
        """Return all that has to be evaluated: (variant, decoder, sparsity), each once."""
        options = self._options
        variants = dict.fromkeys(c.variant for c in (
            *CONTESTANTS, *(c for device in options.devices for c in simulated(device))))
        return list(dict.fromkeys(
            self.canonical(variant, decoder, sparsity) for variant in variants
            for decoder in options.decoders for sparsity in (*options.sparsities, 0.0)))

    def outcome(self, variant: Variant, decoder: str, sparsity: float) -> ExamOutcome:
        """Return what this way leads to, answering the exam if nobody has yet."""
        key = self.canonical(variant, decoder, sparsity)
        if key not in self._outcomes:
            self._outcomes[key] = self._evaluate(*key)
        return self._outcomes[key]

    def runs(self, variant: Variant, decoder: str, sparsity: float) -> list[list[np.ndarray]]:
        """Return [group][frame] -> runs on flash, of each of the group's matrices."""
        outcome = self.outcome(variant, decoder, sparsity)
        return [[as_runs(one, order) for one in read]
                for read, order in zip(outcome.read, self._orders(variant), strict=True)]

    def policy(self, variant: Variant) -> Policy:
        """Return the variant's policy, under the profile it chooses by."""
        if variant.device:
            profile, block = Profile.simulated(variant.device), SIMULATED_BLOCK
        else:
            profile, block = self._options.profile, self._block_size
        made = make_policy(variant.policy, profile, block)
        # 'greedy' is the paper's Algorithm 1 as it stands.
        made.falls_back = variant.falls_back and variant.policy == 'optimal'
        return made

    def layer(self, decoder: str, layout: str) -> tuple[Input, ...]:
        """Return what a layer is: the model's rows, as long as the decoder's."""
        rows = [group.rows for group in self._calibrated.groups]
        return tuple(
            Input(part.name, tuple(Matrix(matrix.name, rows[index], matrix.columns)
                                   for matrix in part.matrices))
            for index, part in enumerate(DECODERS[decoder].layer(layout)))

    @property
    def layers(self) -> int:
        """Return the number of the model's layers."""
        return len(self._calibrated.groups) // len(DECODERS[self._options.decoders[0]].layer())

    def canonical(self, variant: Variant, decoder: str, sparsity: float
                  ) -> tuple[Variant, str, float]:
        """Return the one of all equivalent keys that outcomes are kept under."""
        if sparsity == 0 or variant.policy == 'dense':
            return DENSE, '', 0.0
        if variant.policy == 'topk':  # chooses by importance alone, wherever rows lie
            return Variant('topk', budgets=variant.budgets), '', sparsity
        return variant, decoder, sparsity

    def _orders(self, variant: Variant) -> Sequence[np.ndarray | None]:
        orders = self._calibrated.orders
        return orders if variant.hot_cold else [None] * len(orders)

    def _evaluate(self, variant: Variant, decoder: str, sparsity: float) -> ExamOutcome:
        chooser = FrameSelections(
            self._select(variant, decoder or self._options.decoders[0], sparsity),
            self._orders(variant), self._options.repeats)
        with FrameMasks(self._model, self._calibrated.groups, chooser) as masks:
            right = self._exam.right(self._model, lambda sheet: masks.enter_batch(sheet.frames))
        return ExamOutcome(right, chooser.read, chooser.importance_kept)

    def _select(self, variant: Variant, decoder: str, sparsity: float) -> Select:
        policy, groups = self.policy(variant), self._calibrated.groups
        sizes = [part.matrices[0].row_bytes for part in self.layer(decoder, 'bundled')]
        sizes *= self.layers
        if variant.budgets == 'time':
            seconds = self._plan(variant, policy, sizes, sparsity)
            return lambda index, importance: policy.within(importance, seconds[index],
                                                           sizes[index])
        uniform = variant.budgets == 'uniform'
        skip = [sparsity if uniform else self._calibrated.budgets.sparsity(
            group.name, KIND, sparsity) for group in groups]
        rows = [max(1, round(group.rows * (1 - share)))
                for group, share in zip(groups, skip, strict=True)]
        return lambda index, importance: policy(importance, rows[index], sizes[index])

    def _plan(self, variant: Variant, policy: Policy, sizes: Sequence[int], sparsity: float
              ) -> np.ndarray:
        """Divide this share of the time for everything among the groups: seconds [groups].

        As the engine divides a deadline, by what calibration's frames showed.
        """
        known, orders = self._calibrated, self._orders(variant)
        frontiers = np.stack([
            np.mean([policy.frontier(one if order is None else one[order], size)
                     for one in importance], axis=0)
            for importance, order, size in zip(known.importance, orders, sizes, strict=True)])
        frontiers[..., 1] *= np.array(known.worth)[:, None]
        whole = np.array([policy.seconds(runs.whole(group.rows), size)
                          for group, size in zip(known.groups, sizes, strict=True)])
        # The smallest run is read at least, whatever it takes.
        return np.maximum(spend(frontiers, (1 - sparsity) * whole.sum()), 1e-3 * whole)


def block_size(folder: Path, backend: str) -> int:
    """Return the bytes that reads on this storage are multiples of."""
    with scratch_file(folder, 16 << 20, 1.0, lambda done, total: None) as file, Reader(
            [file.path], backend=backend) as reader:
        return reader.block_size


def measure(options: AccuracyOptions, evaluation: Evaluation, progress: Progress
            ) -> tuple[list[TimedReading], dict]:
    """Time every contestant's reads of the frames remembered; also return the readers' facts."""
    found, facts = [], {}
    for name in options.decoders:
        inputs = [part for layout in LAYOUTS for part in evaluation.layer(name, layout)]
        nbytes = evaluation.layers * sum(part.nbytes for part in inputs)
        copies = max(1, options.file_bytes // nbytes)
        label = DECODERS[name].label

        def written(done: int, total: int, label: str = label) -> None:
            progress(f'{label}: writing', done, total)

        with scratch(options.folder, inputs, evaluation.layers * copies, written) as file, \
                Readers(file.path, inputs, options.backend) as readers:
            facts = {**readers.facts, 'pages': [*facts.get('pages', ()), *(
                {'decoder': name, 'reader': reader,
                 'pages_in_a_row': readers.pages_in_a_row(reader)} for reader in READERS)]}
            found += _measure(options, evaluation, name, file, readers, progress)
    return found, facts


def _measure(options: AccuracyOptions, evaluation: Evaluation, decoder: str, file: ScratchLayers,
             readers: Readers, progress: Progress) -> list[TimedReading]:
    cases = [(contestant, sparsity) for contestant in CONTESTANTS
             for sparsity in options.sparsities]
    numbers: dict[tuple, int] = {}
    which, tasks, estimated = [], [], []
    for contestant, sparsity in cases:
        chosen = evaluation.runs(contestant.variant, decoder, sparsity)
        # Who would read the very same bytes the same way shares a measurement.
        key = (contestant.reader, contestant.layout,
               *(one.tobytes() for frames in chosen for one in frames))
        which.append(numbers.setdefault(key, len(numbers)))
        if len(numbers) > len(tasks):
            tasks.append(_task(contestant, chosen, file, readers, evaluation.layers))
        estimated.append(np.resize(
            frame_seconds(evaluation, contestant, decoder, chosen), options.repeats))
    taken = Counter(f'{DECODERS[decoder].label}: reading', len(tasks) * (options.repeats + 1),
                    progress)
    seconds, place = in_turns(tasks, options.repeats, np.random.default_rng(options.seed), taken)
    return [TimedReading(decoder, contestant, sparsity, expected, seconds[number], place[number])
            for (contestant, sparsity), expected, number in zip(cases, estimated, which,
                                                                strict=True)]


def frame_seconds(evaluation: Evaluation, contestant: Contestant, decoder: str,
                  chosen: list[list[np.ndarray]], device: str = '') -> np.ndarray:
    """Return what reading for each frame takes by the profile: float64 [frames].

    :param chosen: [group][frame] -> runs of each of the group's matrices.
    :param device: a simulated one's latency table instead.
    """
    policy = evaluation.policy(Variant('dense', device=device))
    parts = evaluation.layer(decoder, contestant.layout) * evaluation.layers
    seconds = np.zeros(len(chosen[0]))
    for part, frames in zip(parts, chosen, strict=True):
        # Matrices of one input are read in one batch, which starts once.
        seconds -= (len(part.matrices) - 1) * policy.profile.batch_seconds
        for matrix in part.matrices:
            seconds += [policy.seconds(one, matrix.row_bytes) for one in frames]
    return seconds


def _task(contestant: Contestant, chosen: list[list[np.ndarray]], file: ScratchLayers,
          readers: Readers, layers: int) -> Callable[[int], float]:
    inputs = len(file.inputs) // len(LAYOUTS)
    first = LAYOUTS.index(contestant.layout) * inputs

    def read(repeat: int) -> float:
        batches = []
        for number, frames in enumerate(chosen):
            layer, index = divmod(number, inputs)
            index += first
            found = [frames[repeat % len(frames)]] * len(file.inputs[index].matrices)
            # Another copy each time, so that nothing on the way remembers.
            batches.append(file.extents(repeat * layers + layer, index, found))
        return readers.seconds(contestant.reader, batches)
    return read
