# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Reading alone: decoder layers of real shapes, at equal importance kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from neuron_chunk_ros.bench import tabletop_model
from neuron_chunk_ros.bench.contestants import BASELINE, CONTENDERS, PAGES, EqualImportance
from neuron_chunk_ros.bench.importance import (
    HOT_COLD,
    SOURCES,
    VARIATIONS,
    HotCold,
    Lognormal,
    Recorded,
    Source,
)
from neuron_chunk_ros.bench.progress import Counter, Progress
from neuron_chunk_ros.bench.read.steps import ReadStep, plan
from neuron_chunk_ros.bench.scratch import ScratchLayers, scratch
from neuron_chunk_ros.bench.shapes import DECODERS, LAYOUTS, Decoder
from neuron_chunk_ros.bench.timing import Readers, in_turns
from neuron_chunk_ros.storage.profile import Profile

GRID = tuple(tenth / 10 for tenth in range(8))
DEVICES = ('orin-nano', 'agx-orin')
SIMULATED_BLOCK = 512     # NVMe drives' logical block
_ORDER_DRAWS = 8          # draws before this one are measured with, later ones order rows


@dataclass(frozen=True)
class ReadOptions:
    """What to measure."""

    folder: Path
    profile: Profile
    decoders: tuple[str, ...] = tuple(DECODERS)
    sources: tuple[str, ...] = SOURCES
    sparsities: tuple[float, ...] = GRID
    repeats: int = 30
    frames: int = 250             # that recorded importance comes from
    file_bytes: int = 1 << 30     # as many layers as fit, at least one in both layouts
    seed: int = 20_011
    backend: str = 'auto'

    @property
    def layout_sparsities(self) -> tuple[float, ...]:
        """Where bundled storage is compared with separate."""
        return tuple(s for s in self.sparsities if round(10 * s) in (3, 5, 7)) or self.sparsities


@dataclass(frozen=True)
class TimedReads:
    """A step and how long it took."""

    step: ReadStep
    seconds: np.ndarray = field(repr=False)  # float64 [repeats]
    place: np.ndarray = field(repr=False)    # int64 [repeats], its turn among all of the decoder's


@dataclass
class Measured:
    """What was measured, by decoder."""

    steps: dict[str, list[TimedReads]] = field(default_factory=dict)
    # the same reads, other memory
    pages: dict[str, list[TimedReads]] = field(default_factory=dict)
    pages_in_a_row: dict[str, dict[str, float]] = field(default_factory=dict)  # by reader
    facts: dict = field(default_factory=dict)                    # of the readers


def draw_sources(names: Sequence[str], frames: int, seed: int, progress: Progress
                 ) -> list[Source]:
    """Return sources of importance by name, in order."""
    made: list[Source] = [Lognormal(cv, seed) for cv in VARIATIONS]
    if any(name.startswith('recorded') for name in names):
        count = Counter('recording importance', frames, progress)
        recorded = Recorded(tabletop_model.recorded(frames, seed, count))
        made += [recorded, HotCold(recorded, _ORDER_DRAWS)]
    by_name = {source.name: source for source in made}
    return [by_name[name] for name in names]


def measure(options: ReadOptions, drawn: Sequence[Source], progress: Progress) -> Measured:
    """Time the steps of all decoders, one decoder after another.

    :raises BenchError, ProfileError, ReadError: where the folder can't be written to or read.
    """
    found = Measured()
    for name in options.decoders:
        decoder = DECODERS[name]
        inputs = [part for layout in LAYOUTS for part in decoder.layer(layout)]
        layers = max(1, min(decoder.layers, options.file_bytes // (2 * decoder.layer_bytes)))

        def written(done: int, total: int, label: str = decoder.label) -> None:
            progress(f'{label}: writing', done, total)

        with scratch(options.folder, inputs, layers, written) as file, Readers(
                file.path, inputs, options.backend, other_pages=True) as readers:
            found.facts = readers.facts
            chooser = EqualImportance(options.profile, readers.facts['block_size'])
            progress(f'{decoder.label}: choosing', 0, 0)
            steps = _steps(options, decoder, drawn, chooser)
            middle = min(options.sparsities, key=lambda level: abs(level - 0.5))
            pages = list(plan(decoder, 'bundled', drawn[:1], (middle,), PAGES, chooser))
            timed = _time(options, decoder, [*steps, *pages], file, readers, progress)
            found.steps[name], found.pages[name] = timed[:len(steps)], timed[len(steps):]
            found.pages_in_a_row[name] = {contender.reader: readers.pages_in_a_row(
                contender.reader) for contender in PAGES}
    return found


def _steps(options: ReadOptions, decoder: Decoder, drawn: Sequence[Source],
           chooser: EqualImportance) -> list[ReadStep]:
    """Return all steps of a decoder that are compared."""
    as_they_come = [source for source in drawn if HOT_COLD not in source.name]
    return [*plan(decoder, 'bundled', drawn, options.sparsities, CONTENDERS, chooser),
            # The paper's baseline stores each matrix by itself, its rows as they come.
            *plan(decoder, 'separate', as_they_come, options.sparsities, (BASELINE,), chooser),
            *plan(decoder, 'separate', drawn[:1], options.layout_sparsities, CONTENDERS,
                  chooser)]


def _time(options: ReadOptions, decoder: Decoder, steps: list[ReadStep], file: ScratchLayers,
          readers: Readers, progress: Progress) -> list[TimedReads]:
    # Who would read the very same bytes the same way shares a measurement: a policy that falls
    # back to reading everything is dense.
    numbers: dict[tuple, int] = {}
    which = [numbers.setdefault(step.key, len(numbers)) for step in steps]
    first = [steps[which.index(number)] for number in range(len(numbers))]
    taken = Counter(f'{decoder.label}: reading', len(first) * (options.repeats + 1), progress)
    seconds, place = in_turns([_task(step, file, readers) for step in first], options.repeats,
                              np.random.default_rng(options.seed), taken)
    return [TimedReads(step, seconds[number], place[number])
            for step, number in zip(steps, which, strict=True)]


def _task(step: ReadStep, file: ScratchLayers, readers: Readers) -> Callable[[int], float]:
    start = LAYOUTS.index(step.layout) * len(step.chosen)

    def read(repeat: int) -> float:
        # Another layer each time, so that nothing on the way remembers.
        batches = [file.extents(repeat, start + index, found)
                   for index, found in enumerate(step.chosen)]
        return readers.seconds(step.contender.reader, batches)
    return read


def simulate(options: ReadOptions, drawn: Sequence[Source]) -> dict[str, list[ReadStep]]:
    """Return by device the steps as chosen and estimated under its simulated latency table."""
    found = {}
    for device in DEVICES:
        chooser = EqualImportance(Profile.simulated(device), SIMULATED_BLOCK)
        ours = [contender for contender in CONTENDERS if contender.reader == 'ours']
        found[device] = [step for name in options.decoders for layout in LAYOUTS
                         for step in plan(DECODERS[name], layout, drawn, options.sparsities,
                                          ours, chooser)]
    return found
