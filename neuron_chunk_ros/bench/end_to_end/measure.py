# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every contestant at every ceiling, each beside one pass of the weights."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from neuron_chunk_ros.bench.ceiling import ceiling
from neuron_chunk_ros.bench.end_to_end import models
from neuron_chunk_ros.bench.progress import Progress
from neuron_chunk_ros.bench.report import Record
from neuron_chunk_ros.errors import BenchError
from neuron_chunk_ros.prepare.splits import rows_and_base
from neuron_chunk_ros.storage.reader import Reader

CONTESTANTS = ('ours', 'transformers', 'accelerate', 'llama.cpp')
_PIECE = 16 << 20
_PATIENCE = 60.0  # seconds for loading, and for one step to end, behind the time for measuring
_NEEDED = 5  # times a decoder's bytes: checkpoint, bundle, GGUF files, what is offloaded


@dataclass(frozen=True)
class EndToEndOptions:
    """What to measure."""

    folder: Path
    decoders: tuple[str, ...] = ('qwen2-0.5b', 'qwen2-1.5b')
    ceilings: tuple[float, ...] = (0.25, 0.5, 1.0)    # of all weights
    sparsities: tuple[float, ...] = (0.3, 0.5, 0.7)
    contestants: tuple[str, ...] = CONTESTANTS
    rows: tuple[str, ...] = ('int8', 'int4')          # packed rows that ours runs from as well
    repeats: int = 5
    seconds: float = 180.0  # a process stops measuring after so long


@dataclass
class Process:
    """What one process told."""

    decoder: str
    ceiling: int               # bytes beyond Python and its libraries
    contestant: str
    told: list[Record] = field(default_factory=list)
    fault: str = ''            # how it ended, where not well


@dataclass
class Found:
    """All of a run."""

    weights: dict[str, int]                    # bytes, by decoder
    passes: dict[str, list[float]]             # seconds of one pass of the decoder's, by decoder
    pass_bytes: dict[str, int]
    processes: list[Process]
    enforced: bool


def measure(options: EndToEndOptions, progress: Progress) -> Found:
    """Measure. Raises BenchError where there is no room or a contestant isn't known."""
    for name in options.rows:
        rows_and_base(name)
    unknown = [name for name in options.contestants if name not in CONTESTANTS]
    if unknown:
        raise BenchError(f"no contestant '{unknown[0]}': choose from {', '.join(CONTESTANTS)}")
    llama = 'llama.cpp' in options.contestants and all(
        importlib.util.find_spec(name) for name in ('llama_cpp', 'gguf'))
    found = Found({}, {}, {}, [], False)
    with ceiling('bench') as group:
        found.enforced = group is not None
        for name in options.decoders:
            rows = options.rows if 'ours' in options.contestants else ()
            with _made(options.folder, name, llama, rows, progress) as model:
                weights = model.nbytes + model.words_bytes
                found.weights[name], found.pass_bytes[name] = weights, model.nbytes
                found.passes[name] = [one_pass(model.bundle) for _ in range(3)]
                jobs = list(_jobs(options, model, llama))
                for number, (share, who, job) in enumerate(jobs):
                    progress(f'{name}, ceiling {share:.0%}, {who}', number, len(jobs))
                    job |= {'cgroup': group and [str(group.folder), group.limit],
                            'ceiling': int(share * weights), 'repeats': options.repeats,
                            'seconds': options.seconds,
                            'threads': len(os.sched_getaffinity(0))}
                    process = Process(name, int(share * weights), who)
                    _forget(model.checkpoint.parent)
                    _run(job, process, options.seconds + _PATIENCE)
                    found.processes.append(process)
                found.passes[name] += [one_pass(model.bundle) for _ in range(3)]
    return found


def one_pass(bundle: Path) -> float:
    """Return the seconds that reading the flash files once takes, by direct reads."""
    files = sorted(bundle.glob('flash-*.safetensors'))
    with Reader(files) as reader:
        buffers = [reader.allocate(_PIECE + (1 << 20)) for _ in range(2)]
        started, under_way, turn = time.perf_counter(), [], 0
        for index, file in enumerate(files):
            size = file.stat().st_size
            for at in range(0, size, _PIECE):
                if len(under_way) == 2:
                    under_way.pop(0).wait()
                under_way.append(reader.submit(index, [[at, min(_PIECE, size - at)]],
                                               buffers[turn % 2]))
                turn += 1
        for batch in under_way:
            batch.wait()
        return time.perf_counter() - started


@contextlib.contextmanager
def _made(folder: Path, name: str, gguf: bool, rows: tuple[str, ...],
          progress: Progress) -> Iterator[models.Model]:
    decoder = models.DECODERS[name]
    needed = _NEEDED * decoder.layers * decoder.layer_bytes
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    if free < needed:
        raise BenchError(f'{folder} has {free / 1e9:.0f} GB free, {needed / 1e9:.0f} GB are '
                         f'needed for a while for {name}: choose another folder by --path')
    with tempfile.TemporaryDirectory(prefix='.neuron-chunk-bench-', dir=folder) as place:
        yield models.make(name, Path(place), gguf, rows, progress)


def _jobs(options: EndToEndOptions, model: models.Model,
          llama: bool) -> Iterator[tuple[float, str, dict]]:
    for share in options.ceilings:
        for who in options.contestants:
            checkpoint = {'who': 'transformers', 'checkpoint': str(model.checkpoint)}
            if who == 'ours':
                for rows, path in {'': model.bundle, **model.packed}.items():
                    yield share, who, {'who': 'ours', 'bundle': str(path), 'rows': rows,
                                       'sparsities': options.sparsities}
            elif who == 'transformers':
                label = 'transformers, memory-mapped'
                yield share, label, {**checkpoint, 'label': label}
            elif who == 'accelerate':
                label = 'accelerate, disk offload'
                yield share, label, {**checkpoint, 'label': label,
                                     'offload': str(model.checkpoint.parent / 'offloaded')}
            elif llama:
                for kind, path in model.gguf.items():
                    label = f'llama.cpp, memory-mapped {kind}'
                    yield share, label, {'who': 'llama_cpp', 'gguf': str(path), 'label': label}


def _forget(folder: Path) -> None:
    """Have the system drop the files from its memory.

    What is there already when a process maps it is counted for nobody, and no ceiling holds.
    """
    for path in folder.rglob('*'):
        if path.is_file():
            with open(path, 'rb') as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _run(job: dict, process: Process, timeout: float) -> None:
    command = [sys.executable, '-m', 'neuron_chunk_ros.bench.end_to_end.contestants',
               json.dumps(job)]
    with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
        try:
            code = subprocess.run(command, stdout=out, stderr=err, timeout=timeout).returncode
            fault = {0: '', -9: 'ended by the kernel: more memory than the ceiling'}.get(
                code, f'exit code {code}')
        except subprocess.TimeoutExpired:
            fault = f'not done after {timeout:.0f} s'
        out.seek(0)
        err.seek(0)
        for line in out:
            with contextlib.suppress(ValueError):
                process.told.append(json.loads(line))
        lines = [line.strip() for line in err if line.strip()]
        if fault.startswith('exit') and lines:
            fault = lines[-1].removeprefix('neuron_chunk_ros.errors.MemoryBudgetError: ')[:200]
        process.fault = fault
