# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A file full of random bytes that has no name: whatever ends the process, nothing is left."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Here, not when it is first used: a Ctrl-C that meets its C modules' start gets lost there.
from numpy.random import SFC64, Generator

from neuron_chunk_ros.errors import ProfileError
from neuron_chunk_ros.storage.atomic import write_all

LEAST_BYTES = 128 << 20
_STEP = 16 << 20
_FREE_PART = 0.5    # of the free space is taken at most: others need room meanwhile


class ScratchFile:
    """A nameless file; `path` opens it while this process has it open."""

    def __init__(self, descriptor: int, nbytes: int):
        self.descriptor, self.nbytes = descriptor, nbytes
        self.path = f'/proc/self/fd/{descriptor}'

    def forget(self) -> None:
        """Drop the file from the page cache, as far as the kernel follows the advice."""
        os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def scratch_file(folder: Path, wanted: int, seconds: float,
                 progress: Callable[[int, int], None]) -> Iterator[ScratchFile]:
    """Write random bytes to the storage of a folder, for as long as the block lasts.

    Nothing that compresses or repeats, and written rather than allocated: zeros and holes would
    be answered without asking the device. It is synced, and dropped from the page cache.

    :param wanted: bytes; less, but at least LEAST_BYTES, where the folder's disk hasn't as much
        room or `seconds` are over.
    :param progress: called with (bytes done, bytes in all).
    :raises ProfileError: where it can't be written.
    """
    try:
        size = _size(folder, wanted)
        descriptor = _nameless(folder)
    except OSError as error:
        raise ProfileError(f'cannot write to {folder}: {error.strerror}') from error
    try:
        yield ScratchFile(descriptor, _fill(folder, descriptor, size, seconds, progress))
    finally:
        os.close(descriptor)


def _size(folder: Path, wanted: int) -> int:
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    size = min(wanted, int(free * _FREE_PART)) // _STEP * _STEP
    if size < min(wanted, LEAST_BYTES):
        raise ProfileError(f'{folder} has {free / 1e6:,.0f} MB free: measuring needs '
                           f'{LEAST_BYTES / _FREE_PART / 1e6:,.0f} MB for a while')
    return size


def _nameless(folder: Path) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # not every file system has nameless files, old kernels take the folder for the file
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    name = os.path.join(folder, f'.neuron-chunk-profile-{secrets.token_hex(8)}')
    try:
        return os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _fill(folder: Path, descriptor: int, size: int, seconds: float, progress) -> int:
    random = Generator(SFC64())
    end = time.monotonic() + seconds
    done = 0
    try:
        while done < size and (done < LEAST_BYTES or time.monotonic() < end):
            done += write_all(descriptor, random.bytes(min(_STEP, size - done)), done)
            # step by step, so that neither memory fills nor the end keeps us waiting
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, done, os.POSIX_FADV_DONTNEED)
            progress(done, size)
        os.fsync(descriptor)
    except OSError as error:
        raise ProfileError(f'cannot write {size / 1e6:,.0f} MB to {folder}: '
                           f'{error.strerror}') from error
    return done
