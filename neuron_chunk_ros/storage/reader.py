# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Reads lists of extents from flash into a reusable buffer, in the background."""

import contextlib
import os

import numpy as np

from neuron_chunk_ros import _native
from neuron_chunk_ros._native import Buffer, ReadStats
from neuron_chunk_ros.errors import ReadError

__all__ = ['Batch', 'Buffer', 'ReadStats', 'Reader']


@contextlib.contextmanager
def _read_errors():
    """Turn the native module's errors into ReadError: one line, with path, offset and errno."""
    try:
        yield
    except _native.ReadError as error:
        raise _read_error(error.strerror, error.errno, error.filename, error.offset) from None
    except ValueError as error:
        raise _read_error(str(error)) from None


def _read_error(message, errno=None, path=None, offset=None):
    error = ReadError(message)
    error.errno, error.path, error.offset = errno, path, offset
    return error


def _as_extents(extents) -> np.ndarray:
    array = np.asarray(extents)
    if array.size == 0:
        return np.empty((0, 2), np.int64)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in 'iu':
        raise _read_error(
            'extents must be integers of shape [n, 2] (offset, length in bytes), '
            f'not {array.dtype} of shape {list(array.shape)}')
    return np.ascontiguousarray(array, np.int64)


class Batch:
    """Extents on their way into a buffer.

    Keeps the buffer and the reader alive. Dropping it without waiting takes back what has not
    started and waits for what has, so the buffer is free afterwards either way.
    """

    __slots__ = ('_batch',)

    def __init__(self, batch):
        self._batch = batch

    @property
    def ready(self) -> bool:
        """Whether wait() would return at once. Raises ReadError in a process made by fork."""
        with _read_errors():
            return self._batch.ready

    def wait_bytes(self, nbytes: int, timeout: float) -> int:
        """Wait until so many bytes lie in the buffer, from the first extent's on.

        Returns how many there are: fewer after `timeout` seconds (0.05 at most), and where the
        batch is `ready` all the same, which means that it failed: wait() raises why.
        """
        with _read_errors():
            return self._batch.wait_bytes(nbytes, timeout)

    def wait(self, timeout: float | None = None) -> ReadStats | None:
        """Wait until the extents lie packed in the buffer, and return what was moved.

        Returns ReadStats: bytes_wanted, bytes_read (from the device, alignment included),
        requests, seconds (from submission to the last byte in place); None where that isn't so
        after `timeout` seconds. May be called again.
        Raises ReadError naming path and offset; the reader stays usable.
        """
        with _read_errors():
            return self._batch.wait(timeout)


class Reader:
    """The flash files of a bundle, opened once: descriptors, ring and threads persist.

    Several batches may be in flight, from several threads. A buffer's bytes that one batch is
    still filling are refused to another. A process made by fork can't use its parent's reader.
    """

    def __init__(self, paths, backend='auto', direct='auto', threads=6, queue_depth=128):
        """Open the files.

        paths: the files, by whose index extents are read.
        backend: 'io_uring', 'threads' (a pool of pread), or 'auto': io_uring where the build,
            the kernel and the container allow it.
        direct: 'on' (O_DIRECT), 'off' (page cache), or 'auto': on where every file's file
            system has it. Where 'auto' had to fall back, `notes` says why.
        threads: size of the pool; queue_depth: reads in flight in the ring.

        Raises ReadError.
        """
        with _read_errors():
            self._reader = _native.Reader(
                [os.fspath(path) for path in paths], backend, direct, threads, queue_depth)

    @property
    def backend(self) -> str:
        """The back end in use: 'io_uring' or 'threads'."""
        return self._reader.backend

    @property
    def direct(self) -> bool:
        """Whether reads bypass the page cache."""
        return self._reader.direct

    @property
    def block_size(self) -> int:
        """Bytes that the device's reads are multiples of; 1 through the page cache."""
        return self._reader.block_size

    @property
    def slack(self) -> int:
        """Bytes of buffer that a run may need beside its own: two blocks, and up to a page."""
        return 2 * max(self.block_size, 512) + 4096

    @property
    def notes(self) -> list:
        """Why a fall-back happened, a sentence each."""
        return self._reader.notes

    def allocate(self, nbytes: int) -> Buffer:
        """Memory to read into: huge pages, touched once. Raises ReadError, MemoryError."""
        with _read_errors():
            return Buffer(nbytes)

    def capacity(self, file: int, extents) -> int:
        """Bytes of buffer that reading these extents needs, alignment included.

        Raises ReadError.
        """
        with _read_errors():
            return self._reader.capacity(file, _as_extents(extents))

    def submit(self, file: int, extents, buffer: Buffer, at: int = 0) -> Batch:
        """Start reading in the background.

        file: index into the paths. extents: integers [n, 2] of (offset, length) in bytes, in any
        order; ascending neighbours are read together. at: where in the buffer the batch may begin
        to use space, a multiple of block_size.

        After Batch.wait() the extents' bytes lie one after another, in list order, from
        buffer[at] on. What lies behind them, up to at + capacity(), is undefined.

        Raises ReadError.
        """
        with _read_errors():
            return Batch(self._reader.submit(file, _as_extents(extents), buffer, at))

    def read(self, file: int, extents, buffer: Buffer, at: int = 0) -> ReadStats:
        """submit() and Batch.wait() in one. Raises ReadError."""
        with _read_errors():
            return self._reader.read(file, _as_extents(extents), buffer, at)

    def close(self) -> None:
        """End threads and close files, after the reads under way; may be called again.

        A batch that had not fully started raises ReadError when waited for.
        """
        self._reader.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()
