# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Timed reads: the two readers under comparison, and turns that noise hits alike."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from neuron_chunk_ros import _native
from neuron_chunk_ros.bench.pages import pages_in_a_row, scattered_buffer
from neuron_chunk_ros.bench.shapes import Input
from neuron_chunk_ros.storage.reader import Reader

# The paper's: six threads of pread into ordinary pages. Ours: whatever the engine opens.
READERS = ('paper', 'ours')
# The paper's reader again, into other memory: what its buffer's pages are worth.
OTHER_PAGES = ('paper, pages as handed out', 'paper, huge pages')
PAPER_THREADS = 6
_SLACK = 1 << 20
_BLOCK = 4096  # no device's block is larger


class Readers:
    """Both readers, opened on one file, each with a buffer of its own for a whole input."""

    def __init__(self, path: str, inputs: Sequence[Input], backend: str = 'auto',
                 other_pages: bool = False):
        """Open.

        :param inputs: what will be read; the buffers hold the largest.
        :param backend: of our reader.
        :param other_pages: have OTHER_PAGES, too.
        """
        size = _SLACK + max(part.nbytes + len(part.matrices) * part.rows * _BLOCK
                            for part in inputs)
        paper = Reader([path], backend='threads', threads=PAPER_THREADS)
        self._readers = {'paper': paper, 'ours': Reader([path], backend=backend)}
        self._buffers = {'paper': scattered_buffer(size), 'ours': _native.Buffer(size)}
        if other_pages:
            self._readers |= dict.fromkeys(OTHER_PAGES, paper)
            self._buffers |= {OTHER_PAGES[0]: _native.Buffer(size, huge_pages=False),
                              OTHER_PAGES[1]: _native.Buffer(size)}

    @property
    def facts(self) -> dict:
        """What was opened, for the report."""
        ours = self._readers['ours']
        return {'backend': ours.backend, 'direct_io': ours.direct, 'block_size': ours.block_size,
                'notes': ' '.join(ours.notes)}

    def pages_in_a_row(self, reader: str) -> float:
        """Return how many pages of a reader's buffer lie side by side, on average."""
        return pages_in_a_row(self._buffers[reader])

    def seconds(self, reader: str, batches: Sequence[np.ndarray]) -> float:
        """Read the batches one after another, as a decoder must; return the wall time.

        :param batches: extents, int64 [n, 2] (offset, length) each.
        """
        device, buffer = self._readers[reader], self._buffers[reader]
        started = time.perf_counter()
        for extents in batches:
            device.read(0, extents, buffer)
        return time.perf_counter() - started

    def close(self) -> None:
        """Close both readers and free their buffers."""
        for reader in self._readers.values():
            reader.close()
        self._buffers.clear()

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()


@contextlib.contextmanager
def _no_collecting() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def in_turns(tasks: Sequence[Callable[[int], float]], repeats: int, rng: np.random.Generator,
             progress: Callable[[], None] = lambda: None) -> tuple[np.ndarray, np.ndarray]:
    """Time every task once a repeat, in another order each time.

    :param tasks: called with the number of the repeat (-1: warming up), each returns seconds.
    :param progress: called after each task.
    :return: seconds float64 [tasks, repeats], and int64 [tasks, repeats]: the place of each
        among all, in the order they were taken.
    """
    seconds = np.empty((len(tasks), repeats))
    place = np.empty((len(tasks), repeats), np.int64)
    with _no_collecting():
        for task in tasks:
            task(-1)
            progress()
        for repeat in range(repeats):
            for turn, number in enumerate(rng.permutation(len(tasks))):
                seconds[number, repeat] = tasks[number](repeat)
                place[number, repeat] = repeat * len(tasks) + turn
                progress()
    return seconds, place
