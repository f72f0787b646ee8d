# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Selecting alone: what each policy's choice costs beside the reading that it plans."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from neuron_chunk_ros.bench.contestants import policies
from neuron_chunk_ros.bench.importance import Source
from neuron_chunk_ros.bench.progress import Counter, Progress
from neuron_chunk_ros.bench.shapes import DECODERS, LAYOUTS, Decoder, Matrix
from neuron_chunk_ros.bench.timing import in_turns
from neuron_chunk_ros.chunking import runs
from neuron_chunk_ros.chunking.policies import Policy
from neuron_chunk_ros.storage.profile import Profile

SPARSITY = 0.5
BLOCK = 512   # bytes that reads are multiples of
_DRAWS = 8    # importance vectors that take turns, so that no call sees what the last one saw

# (policy, what its budget counts)
WAYS = (('topk', 'rows'), ('greedy', 'rows'), ('optimal', 'rows'), ('optimal', 'time'))


@dataclass(frozen=True)
class SelectOptions:
    """What to measure."""

    profile: Profile
    decoders: tuple[str, ...] = tuple(DECODERS)
    calls: int = 60
    frames: int = 250
    seed: int = 20_011


@dataclass(frozen=True)
class Selected:
    """One policy on one matrix."""

    decoder: str
    layout: str
    matrix: Matrix
    policy: str
    budget: str                                # 'rows' or 'time'
    planned: float                             # seconds of reading, by the profile
    seconds: np.ndarray = field(repr=False)    # float64 [calls]


def measure(options: SelectOptions, source: Source, progress: Progress) -> list[Selected]:
    """Time every policy on every matrix, on one core."""
    cases, tasks = [], []
    for name in options.decoders:
        for layout, part, matrix in _matrices(DECODERS[name]):
            draws = [source.draw(part, matrix.rows, number) for number in range(_DRAWS)]
            made = policies(options.profile, BLOCK)
            for policy, budget in WAYS:
                call = _call(made[policy], budget, matrix)
                planned = float(np.mean([made[policy].seconds(call(one), matrix.row_bytes)
                                         for one in draws]))
                cases.append((name, layout, matrix, policy, budget, planned))
                tasks.append(_task(call, draws))
    taken = Counter('selecting', len(tasks) * (options.calls + 1), progress)
    with _one_core():
        seconds, _ = in_turns(tasks, options.calls, np.random.default_rng(options.seed), taken)
    return [Selected(*case, seconds=row) for case, row in zip(cases, seconds, strict=True)]


def _matrices(decoder: Decoder) -> Iterator[tuple[str, str, Matrix]]:
    """Yield (layout, input, matrix): all bundled ones, then those that only exist alone."""
    seen = set()
    for layout in LAYOUTS:
        for part in decoder.layer(layout):
            for matrix in part.matrices:
                if (shape := (matrix.rows, matrix.columns)) not in seen or layout == 'bundled':
                    seen.add(shape)
                    yield layout, part.name, matrix


def _call(policy: Policy, budget: str, matrix: Matrix) -> Callable[[np.ndarray], np.ndarray]:
    if budget == 'rows':
        rows = round(matrix.rows * (1 - SPARSITY))
        return lambda importance: policy(importance, rows, matrix.row_bytes)
    seconds = (1 - SPARSITY) * policy.seconds(runs.whole(matrix.rows), matrix.row_bytes)
    return lambda importance: policy.within(importance, seconds, matrix.row_bytes)


def _task(call: Callable[[np.ndarray], np.ndarray], draws: Sequence[np.ndarray]
          ) -> Callable[[int], float]:
    def select(repeat: int) -> float:
        importance = draws[repeat % len(draws)]
        started = time.perf_counter()
        call(importance)
        return time.perf_counter() - started
    return select


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
