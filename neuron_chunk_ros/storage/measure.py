# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Measures a storage device's latency table, with the reads and the reader the engine uses.

Neuron Chunking, section 3.2: T[s] is the time of a batch of many chunks of s KiB, divided by
their number, so that the device is as busy as it gets. It isn't the time of a lone read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from neuron_chunk_ros import __version__
from neuron_chunk_ros.errors import ProfileError, ReadError
from neuron_chunk_ros.storage.device_facts import device_facts, huge_pages, kernel
from neuron_chunk_ros.storage.profile import Profile
from neuron_chunk_ros.storage.profile_fit import fit_lines, saturation
from neuron_chunk_ros.storage.reader import Reader
from neuron_chunk_ros.storage.scratch_file import ScratchFile, scratch_file

SIZES_KIB = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024,
             1536, 2048)
FILE_BYTES = 1 << 30
SECONDS = 45.0
LEAST_ROUNDS = 5

_MOST_ROUNDS = 200
_WRITE_SECONDS = 40.0
_BATCH_BYTES = 64 << 20     # at most
_BATCH_SECONDS = 0.025      # a batch's aim: starting up takes a few tenths of a millisecond
_BATCH_CHUNKS = (64, 4096)  # at least, while they are small; at most

_START_SIZES_KIB, _START_COUNTS = (4, 32, 256), (1, 2, 4, 8, 16)
_MIXES = 8          # of whole pages, and half as many that end within pages
_PAGE = 4096        # bytes; reads placed on it are the fast ones, here and on flash

MeasureProgress = Callable[[str, float, float], None]


def measure(folder: str | os.PathLike, *, backend: str = 'auto',
            progress: MeasureProgress | None = None,
            stopped: Callable[[], bool] | None = None, allow_tmpfs: bool = False,
            buffered: bool = False, seconds: float = SECONDS,
            file_bytes: int = FILE_BYTES) -> Profile:
    """Measure the storage that holds a folder, on a nameless file that is gone afterwards.

    Sizes are read in a new random order in each round, so that what disturbs the device for a
    while doesn't fall on one size; T is the median over the rounds.

    :param backend: see storage.reader.Reader.
    :param progress: called with (what is being done, how much of it, of how much).
    :param stopped: asked between batches; a true answer ends the work with ProfileError.
    :param allow_tmpfs: measure memory as if it were storage.
    :param buffered: measure reads through the page cache, emptied before each batch. Without, a
        file system that has no direct I/O is refused.
    :param seconds: time to read for; at least LEAST_ROUNDS rounds are read. Writing comes on top.
    :param file_bytes: size of the file, 32 MiB at least; less where the free space is small.
    :raises ProfileError: no such folder, no room, no storage behind it, no direct I/O, stopped.
    """
    folder = Path(os.path.abspath(folder))
    try:
        facts = device_facts(folder)
    except OSError as error:
        raise ProfileError(f'{folder}: {error.strerror}') from error
    if not folder.is_dir():
        raise ProfileError(f'{folder} is not a folder: give the one that holds the bundles')
    if facts.in_memory and not allow_tmpfs:
        raise ProfileError(f'{folder} lies in memory ({facts.file_system}), there is no storage '
                           'to measure: give a folder on flash, or allow it (--allow-tmpfs)')
    report = progress or (lambda doing, done, total: None)
    with scratch_file(folder, file_bytes, _WRITE_SECONDS,
                      lambda done, total: report('writing', done, total)) as file:
        try:
            with _open(file, folder, backend, buffered or facts.in_memory) as reader:
                meter = _Meter(reader, file, stopped or (lambda: False))
                profile, about = _measured(meter, seconds, report)
                about |= {'backend': reader.backend, 'direct_io': int(reader.direct),
                          'block_size': reader.block_size}
        except ReadError as error:
            raise ProfileError(f'cannot read back from {folder}: {error}') from error
    about |= {
        'device': facts.device, 'file_system': facts.file_system,
        'mount_source': facts.mount_source, 'uuid': facts.uuid, 'kernel': kernel(),
        'huge_pages': huge_pages(), 'file_bytes': file.nbytes, 'program': __version__,
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds')}
    return replace(profile, about=about)


def _open(file: ScratchFile, folder: Path, backend: str, buffered: bool) -> Reader:
    reader = Reader([file.path], backend=backend, direct='off' if buffered else 'auto')
    if reader.direct or buffered:
        return reader
    reader.close()
    raise ProfileError(f'{folder}: this file system has no direct I/O, the page cache would be '
                       'measured: give another folder, or measure buffered reads (--buffered)')


class _Meter:
    """Reads batches and tells how long they took [s]."""

    def __init__(self, reader: Reader, file: ScratchFile, stopped: Callable[[], bool]):
        self._reader, self._file, self._stopped = reader, file, stopped
        self.block = max(reader.block_size, _PAGE)
        # chunks take every other place, so a batch can be half the file
        self.most_bytes = min(_BATCH_BYTES, file.nbytes // 2 - (1 << 20))
        self._buffer = reader.allocate(self.most_bytes + (1 << 20))
        self.random = np.random.default_rng()

    def read(self, lengths: np.ndarray, gaps: np.ndarray) -> float:
        """Read chunks of these lengths [bytes], in ascending order, from somewhere in the file.

        gaps: bytes left out before each; at least a block, or they would be read as one.
        """
        if self._stopped():
            raise ProfileError('stopped')
        if not self._reader.direct:
            self._file.forget()
        return self._reader.read(0, self._placed(lengths, gaps), self._buffer).seconds

    def blocks(self, nbytes):
        """Round bytes, a number or an array, up to whole blocks."""
        return -(-nbytes // self.block) * self.block

    def _placed(self, lengths: np.ndarray, gaps: np.ndarray) -> np.ndarray:
        ends = np.cumsum(self.blocks(lengths) + np.maximum(self.blocks(gaps), self.block))
        room = (self._file.nbytes - int(ends[-1])) // self.block
        begin = int(self.random.integers(0, room + 1)) * self.block
        return np.stack([begin + ends - self.blocks(lengths), lengths], axis=1)


def _measured(meter: _Meter, seconds: float, report: MeasureProgress) -> tuple[dict, dict]:
    """Return the profile's numbers, and what is to be told about how they came about.

    Three kinds of batches take turns, so that the same disturbances meet all of them: large ones
    of one size, which give T; small ones, which give what starting takes; and mixed lengths, on
    which the fit is tried.
    """
    sizes = [(np.full(count, kib * 1024),) * 2
             for kib in SIZES_KIB for count in [_count(meter, kib)]]
    starts = [(np.full(count, kib * 1024),) * 2
              for kib in _START_SIZES_KIB for count in _START_COUNTS]
    mixes = [_mix(meter, _PAGE) for _ in range(_MIXES)]
    ragged = [_mix(meter, 1024) for _ in range(_MIXES // 2)]
    cases = (sizes, starts, mixes, ragged)
    rounds = _rounds(meter, sum(cases, []), seconds, report)
    medians = np.split(np.median(rounds, axis=0), np.cumsum([len(c) for c in cases])[:-1])

    counts = np.array([len(lengths) for lengths, _ in sizes])
    times = medians[0] / counts
    quartiles = np.percentile(rounds[:, :len(sizes)], (25, 75), axis=0) / counts
    # Part of a page takes as long as a page. Lines through that too would bend there, and not
    # where requests stop to matter.
    whole = SIZES_KIB.index(_PAGE // 1024)
    low, high, knee = fit_lines(SIZES_KIB[whole:], times[whole:])
    profile = Profile(
        low, high, knee, saturation(SIZES_KIB, times), 0.0, 'measured', SIZES_KIB,
        tuple(times.tolist()), tuple(map(tuple, quartiles.T.tolist())))
    # Small batches of large reads may even beat T; a negative start would be no start at all.
    start = float(np.median(medians[1] - _estimates(profile, starts)))
    profile = replace(profile, batch_seconds=max(0.0, start))
    errors = _estimates(profile, mixes) / medians[2] - 1
    return profile, {
        'repeats': len(rounds),
        'fit_error': float(np.median(np.abs(profile.seconds(SIZES_KIB) / times - 1))),
        'fit_worst': float(np.abs(profile.seconds(SIZES_KIB) / times - 1).max()),
        'held_out_error': float(np.median(np.abs(errors))),
        'held_out_worst': float(np.abs(errors).max()),
        'held_out_bias': float(np.median(errors)),
        'ragged_slowdown': float(np.median(medians[3] / _estimates(profile, ragged)))}


def _estimates(profile: Profile, cases: list) -> np.ndarray:
    return np.array([profile.estimate(lengths) for lengths, _ in cases])


def _rounds(meter: _Meter, cases: list, seconds: float, report: MeasureProgress) -> np.ndarray:
    """Read each case once a round, in random order; return seconds, float64 [rounds, cases]."""
    begun = time.monotonic()
    rounds: list[np.ndarray] = []
    while len(rounds) < LEAST_ROUNDS or (
            len(rounds) < _MOST_ROUNDS and time.monotonic() < begun + seconds):
        taken = np.zeros(len(cases))
        for index in meter.random.permutation(len(cases)):
            taken[index] = meter.read(*cases[index])
            report('reading', min(time.monotonic() - begun, seconds), seconds)
        rounds.append(taken)
    return np.stack(rounds)


def _count(meter: _Meter, kib: int) -> int:
    """Return how many chunks of this size saturate the device and outweigh starting up."""
    fewest, most = _BATCH_CHUNKS
    most = min(most, meter.most_bytes // meter.blocks(kib * 1024))
    least = int(np.clip(8192 // kib, 8, fewest))   # large ones saturate with fewer
    lengths = np.full(min(most, 4 * least), kib * 1024)
    each = meter.read(lengths, lengths) / len(lengths)
    return int(np.clip(_BATCH_SECONDS / each, min(least, most), most))


def _mix(meter: _Meter, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return lengths and gaps [bytes] of 200 to 2000 runs as a selection may have them.

    unit: what lengths are multiples of. Reads that don't fill whole pages leave the ones behind
    them unaligned in memory, which costs some devices a fifth.
    """
    random = meter.random
    count = round(np.exp(random.uniform(np.log(200), np.log(2000))))
    middle = np.exp(random.uniform(np.log(2), np.log(96)))
    lengths, gaps = (
        np.clip(1024 * middle * random.lognormal(0, random.uniform(0.4, 1.2), count), 1, 2 << 20)
        for _ in range(2))
    lengths, gaps = (unit * np.ceil(sizes / unit).astype(np.int64) for sizes in (lengths, gaps))
    # as many as buffer and file can hold
    fit = np.searchsorted(np.cumsum(meter.blocks(np.maximum(lengths, gaps))), meter.most_bytes)
    return lengths[:fit], gaps[:fit]
