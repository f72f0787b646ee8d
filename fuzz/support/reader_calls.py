# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A reader's life in some steps, sensible and hostile ones, from one thread or several."""

import gc
import os
import tempfile
import threading
from pathlib import Path

import numpy as np

from neuron_chunk_ros import _native

from . import hostile
from .watched import FOLDERS, Finding

SIZE = 300_123
CONTENT = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)
REFUSALS = (ValueError, TypeError, _native.ReadError, MemoryError, OverflowError)
BUFFERS = [1, 4096, 100_000, 2**21 + 1, 2**23]
# Refused at once wherever it is run: more than any machine has.
NO_BUFFER = [0, -1, -2**63, 2**46, 2**62, 2**63 - 1, 2**63 - 2**22, 2**63, 2**64, None, 'x',
             1.5, []]


class Files:
    """One file with known bytes, an empty one and, where they can be had, huge hollow ones."""

    def __init__(self):
        folders = [Path(tempfile.mkdtemp(dir=folder)) for folder in FOLDERS]
        folder = folders[0]
        self.known, self.empty = folder / 'known', folder / 'empty'
        CONTENT.tofile(self.known)
        self.empty.touch()
        self.hollow = []
        for place in folders:
            for power in (62.9999, 62, 43):
                path = place / f'hollow{power}'
                path.touch()
                try:
                    os.truncate(path, int(2**power))
                except OSError:
                    path.unlink()
                    continue
                self.hollow.append(path)
        os.mkfifo(folder / 'fifo')
        os.symlink(folder / 'loop', folder / 'loop')
        (folder / 'name\udcff').touch()
        self.bad = [folder, folder / 'fifo', folder / 'loop', folder / 'missing', '',
                    f'{self.known}\0', f'{self.known}\0x', os.fsencode(folder) + b'/missing\xff',
                    os.fsencode(folder / 'name\udcff'), folder / ('x' * 3000),
                    '/proc/self/mem', '/dev/null', '/proc/self/status']


FILES = Files() if FOLDERS else None  # the watcher itself needs none


def _paths(rng):
    if rng.random() < 0.1:
        return hostile.pick(rng, [[], [b'x'], [None], 'x', None, [1], [[]],
                                  [str(FILES.known)] * 40])
    paths = [FILES.known]
    if rng.random() < 0.2:
        paths.append(FILES.empty)
    if rng.random() < 0.3:
        paths.append(hostile.pick(rng, FILES.hollow + [FILES.known]))
    if rng.random() < 0.1:
        paths.insert(rng.integers(len(paths) + 1), hostile.pick(rng, FILES.bad))
    return [path if isinstance(path, (str, bytes)) else os.fspath(path) for path in paths]


def _extents(rng):
    """Return extents of the file whose bytes are known, or hostile ones."""
    kind = rng.integers(8)
    if kind < 4:
        length = rng.integers(0, 9000, rng.integers(0, 20))
        made = np.stack([rng.integers(0, SIZE - 9000, len(length)), length], 1)
        return np.sort(made, 0) if kind == 0 else made
    if kind == 4:
        return hostile.array(rng, np.array([[3, 9], [40, 11]]))
    if kind == 5:
        return [(0, 2**rng.integers(20, 63)) for _ in range(rng.integers(1, 9))]
    return [(hostile.integer(rng), hostile.integer(rng)) for _ in range(rng.integers(1, 4))]


class Life:
    """What there is at the moment, and the steps that may be done with it."""

    def __init__(self, say):
        self._say = say
        self.readers, self.buffers, self.batches = [], [], []
        self._lock = threading.Lock()

    def open(self, rng):
        options = {'backend': hostile.pick(rng, ['auto', 'io_uring', 'threads']),
                   'direct': hostile.pick(rng, ['auto', 'on', 'off']),
                   'threads': int(rng.integers(1, 5)), 'queue_depth': int(rng.integers(1, 9)),
                   'max_request': 1 << rng.integers(12, 21)}
        paths = _paths(rng)
        if rng.random() < 0.2:
            key = hostile.pick(rng, sorted(options))
            options[key] = hostile.scalar(rng)
        reader = self._call(f'Reader({paths!r}, {options!r})', _native.Reader, paths, **options)
        if reader is not None:
            with self._lock:
                self.readers.append(reader)

    def allocate(self, rng):
        nbytes = hostile.pick(rng, BUFFERS if rng.random() < 0.8 else NO_BUFFER)
        huge = bool(rng.integers(2)) if rng.random() < 0.9 else hostile.scalar(rng)
        buffer = self._call(f'Buffer({nbytes!r}, {huge!r})', _native.Buffer, nbytes, huge)
        if buffer is not None:
            if isinstance(nbytes, int) and buffer.nbytes != nbytes:
                raise Finding(f'a buffer of {nbytes} bytes has {buffer.nbytes}')
            np.frombuffer(buffer, np.uint8)[[0, -1]] = 7
            with self._lock:
                self.buffers.append(buffer)

    def ask(self, rng):
        """Submit, read or ask what that would take."""
        reader = self._one_of(rng, self.readers)
        if reader is None:
            return
        file = 0 if rng.random() < 0.7 else hostile.pick(rng, [1, 2, 3, hostile.scalar(rng)])
        extents = _extents(rng)
        buffer = self._one_of(rng, self.buffers)
        if rng.random() < 0.05:
            buffer = hostile.pick(rng, [None, bytearray(9000), np.zeros(9000, np.uint8)])
        at = 0
        if rng.random() < 0.3:
            at = hostile.pick(rng, [512, 4096, 65536, hostile.scalar(rng)])
        text = f'{file!r}, {hostile.described(extents)}'
        kind = rng.integers(3)
        if kind == 0:
            needed = self._call(f'capacity({text})', reader.capacity, file, extents)
            if needed is not None and needed < 0:
                raise Finding(f'a capacity of {needed} bytes')
            return
        text = f'{text}, {buffer!r}, {at!r}'
        if kind == 1:
            batch = self._call(f'submit({text})', reader.submit, file, extents, buffer, at)
            if batch is not None:
                with self._lock:
                    self.batches.append(batch)
            return
        self._call(f'read({text})', reader.read, file, extents, buffer, at)

    def wait(self, rng):
        batch = self._one_of(rng, self.batches)
        if batch is None:
            return
        if rng.random() < 0.5:
            patience = hostile.pick(rng, [None, 0, -1, 0.001, float('nan'), float('inf'), 1e300,
                                          -1e300, 'x', 2**62])
            self._call(f'wait({patience!r})', batch.wait, patience)
        else:
            nbytes, patience = hostile.scalar(rng), hostile.pick(rng, hostile.FLOATS)
            there = self._call(f'wait_bytes({nbytes!r}, {patience!r})', batch.wait_bytes, nbytes,
                               patience)
            if there is not None and there < 0:
                raise Finding(f'{there} bytes in place')
        self._call('ready', lambda: batch.ready)

    def drop(self, rng):
        """Let go of something, whatever still needs it."""
        with self._lock:
            kept = hostile.pick(rng, [self.readers, self.buffers, self.batches, self.batches])
            gone = [kept.pop(rng.integers(len(kept)))] if kept else []
        self._say(f'del {gone!r}')
        del gone
        gc.collect(0)

    def look(self, rng):
        reader = self._one_of(rng, self.readers)
        if reader is not None:
            self._call('properties', lambda: (reader.backend, reader.direct, reader.block_size,
                                              reader.notes))

    def close(self, rng):
        reader = self._one_of(rng, self.readers)
        if reader is not None:
            self._call('close()', reader.close)

    def misuse(self, rng):
        """Make what only a reader makes, hand each method another's object."""
        made = [*self.readers, *self.buffers, *self.batches, None, 3]
        kind = hostile.pick(rng, [_native.Batch, _native.ReadStats, _native.Reader])
        name = hostile.pick(rng, [name for name in vars(kind) if name[0] != '_' or name in (
            '__init__', '__enter__', '__exit__', '__repr__')])
        arguments = [hostile.pick(rng, made) for _ in range(rng.integers(1, 4))]
        method = getattr(kind, name)
        if callable(method):
            self._call(f'{kind.__name__}.{name}({arguments!r})', method, *arguments)

    def check(self, rng):
        """Whatever went before: a good read gives the file's bytes."""
        with _native.Reader([str(FILES.known)], 'auto', 'auto', 2, 4) as reader:
            buffer = _native.Buffer(1 << 20)
            offset, length = (int(n) for n in rng.integers(0, SIZE // 2, 2))
            stats = self._call('a good read', reader.read, 0, [(offset, length)], buffer)
            repr(stats)
            if stats is None or stats.bytes_wanted != length or (
                    np.frombuffer(buffer, np.uint8)[:length] != CONTENT[offset:offset + length]
            ).any():
                raise Finding(f'{length} bytes from {offset} on are not those of the file')

    def step(self, rng):
        steps = [self.open, self.allocate, self.ask, self.ask, self.ask, self.wait, self.wait,
                 self.drop, self.look, self.close, self.misuse]
        hostile.pick(rng, steps)(rng)

    def _one_of(self, rng, kept):
        with self._lock:
            return hostile.pick(rng, kept) if kept else None

    def _call(self, text, call, *arguments, **options):
        self._say(text)
        try:
            return call(*arguments, **options)
        except REFUSALS:
            return None


def live(rng, say):
    """Open, read, wait, drop and close in some order, then see that a reader still reads."""
    life = Life(say)
    life.open(rng)
    life.allocate(rng)
    for _ in range(rng.integers(1, 12)):
        life.step(rng)
    life.check(rng)


def live_in_threads(rng, say):
    """The same by several threads with the same objects."""
    life = Life(say)
    life.open(rng)
    life.allocate(rng)
    in_threads(rng, 3, 8, life.step)
    life.check(rng)


def in_threads(rng, threads, times, work):
    """Call `work` so often in each thread, with a generator of its own; raise what it raised."""
    wrong = []

    def run(own):
        try:
            for _ in range(times):
                work(own)
        except BaseException as error:
            wrong.append(error)

    running = [threading.Thread(target=run, args=(own,)) for own in rng.spawn(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if wrong:
        raise wrong[0]
