# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A folder that appears complete or not at all: temporary sibling, fsync, rename."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from neuron_chunk_ros.errors import BundleError, NeuronChunkError

_SPARE_BYTES = 16 << 20  # left free beyond what we write: directories, journals, other writers


class AtomicFolder:
    """Context manager: write into `.folder`; on success it is renamed to `target`.

    Any exception, also Ctrl-C, removes everything written. A process killed outright leaves its
    temporary folder behind; the next writer of the same target removes it, which is safe because
    a living writer holds a lock on its own. An OSError that leaves the body is turned into
    `error` with one line that names the target.
    """

    def __init__(self, target: Path, needed_bytes: int = 0,
                 error: type[NeuronChunkError] = BundleError):
        # resolve the parent only: a target that is a dangling link must be seen as one
        self.target = Path(os.path.abspath(target))
        self._needed = needed_bytes
        self._error = error
        self._lock = -1
        self.folder = self.target

    def __enter__(self) -> AtomicFolder:
        try:
            check_target(self.target, self._error)
            self._remove_stale()
            check_space(self.target.parent, self._needed, self.target, self._error)
            self._create()
        except OSError as reason:
            self._clean()
            raise self._failure(reason) from reason
        except BaseException:  # Ctrl-C while the folder was being made
            self._clean()
            raise
        return self

    def __exit__(self, kind, value, traceback) -> None:
        try:
            if kind is None:
                self._commit()
        except OSError as reason:
            raise self._failure(reason) from reason
        finally:
            self._clean()
        if isinstance(value, OSError):
            raise self._failure(value) from value

    def _clean(self) -> None:
        if self.folder != self.target:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _prefix(self) -> str:
        return f'.{self.target.name}.partial-'

    def _create(self) -> None:
        for _ in range(8):
            folder = self.target.parent / (self._prefix() + secrets.token_hex(4))
            self.folder = folder  # known before it is there: an interruption must find it
            os.mkdir(folder)
            self._lock = _lock(folder)
            # another writer may have taken the unlocked, newborn folder for a stale one
            if folder.is_dir():
                return
            if self._lock >= 0:
                os.close(self._lock)
            self.folder, self._lock = self.target, -1
        raise OSError(errno.EAGAIN, 'temporary folders keep disappearing')

    def _remove_stale(self) -> None:
        with os.scandir(self.target.parent) as entries:
            stale = [Path(entry.path) for entry in entries
                     if entry.name.startswith(self._prefix())
                     and entry.is_dir(follow_symlinks=False)]
        for folder in stale:
            lock = _lock(folder)
            if lock >= 0:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)

    def _commit(self) -> None:
        for entry in os.scandir(self.folder):
            sync(Path(entry.path))
        sync(self.folder)
        check_target(self.target, self._error)
        try:
            os.rename(self.folder, self.target)
        except OSError as reason:
            if reason.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another writer was first
                check_target(self.target, self._error)
            raise
        self.folder = self.target
        sync(self.target.parent)

    def _failure(self, reason: OSError) -> NeuronChunkError:
        if reason.errno in (errno.ENOSPC, errno.EDQUOT):
            return self._error(f'disk full while writing {self.target}; nothing was kept')
        where = f' ({reason.filename})' if reason.filename else ''
        text = reason.strerror or str(reason)
        return self._error(f'cannot write {self.target}: {text}{where}; nothing was kept')


def check_target(target: Path, error: type[NeuronChunkError]) -> None:
    """Refuse a target that exists already or has no folder to be in. Raises `error`."""
    target = Path(os.path.abspath(target))
    if os.path.lexists(target):
        raise error(f'{target} already exists: remove it or choose another name')
    if not target.parent.is_dir():
        raise error(f'{target.parent} is not a folder: create it first')


def check_space(folder: Path, needed: int, target: Path, error: type[NeuronChunkError]) -> None:
    """Refuse to begin what the disk cannot hold. Raises `error` with both numbers."""
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise error(f'{target} needs {_mb(needed + _SPARE_BYTES)}, '
                    f'{folder} has {_mb(free)} free')


def write_file(path: Path, chunks: Iterable) -> int:
    """Write a new file from bytes-like chunks; returns its size. Raises OSError."""
    written = 0
    with open(path, 'xb', buffering=0) as file:
        for chunk in chunks:
            written += write_all(file.fileno(), chunk, written)
    return written


def write_all(descriptor: int, data, offset: int) -> int:
    """Write all bytes of a buffer at an offset; returns their number. Raises OSError."""
    view = memoryview(data).cast('B')
    done = 0
    while done < len(view):
        # below 1 GiB a call: Linux cuts longer writes short anyway
        done += os.pwrite(descriptor, view[done:done + (1 << 30)], offset + done)
    return done


def sync(path: Path) -> None:
    """Flush a file or folder to the device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    """Lock a folder for this process; -1 where it is held, gone, or the disk knows no locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor


def _mb(nbytes: int) -> str:
    return f'{nbytes / 1e6:,.1f} MB' if nbytes < 10e9 else f'{nbytes / 1e9:,.1f} GB'
