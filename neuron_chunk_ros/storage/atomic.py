# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear complete or not at all: temporary sibling, fsync, rename."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from neuron_chunk_ros.errors import BundleError, NeuronChunkError
from neuron_chunk_ros.storage import partial
from neuron_chunk_ros.storage.disk_errors import UnsyncedError, failure, os_error

_SPARE_BYTES = 16 << 20  # left free beyond what we write: directories, journals, other writers
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class ScratchFolder:
    """Context manager: a folder beside `target`, removed at the end with all that is in it.

    A process killed outright leaves it behind; the next writer of the same target removes it,
    which is safe because a living writer holds a lock on its own. An OSError that leaves the body
    is turned into `error` with one line that names the target.
    """

    def __init__(self, target: Path, needed_bytes: int = 0,
                 error: type[NeuronChunkError] = BundleError):
        # resolve the parent only: a target that is a dangling link must be seen as one
        self.target = Path(os.path.abspath(target))
        self._needed = needed_bytes
        self._error = error
        self._lock = -1
        self.folder = self.target

    def __enter__(self):
        try:
            self._check()
            partial.remove_stale(self.target)
            check_space(self.target.parent, self._needed, self.target, self._error)
            self._lock = partial.create(self.target, os.mkdir, self._know)
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
        if isinstance(value, NeuronChunkError):
            # of what lay in here, which is gone
            if str(self.folder) in str(value) and not os.path.lexists(self.target):
                raise type(value)(f'{value}; of {self.target} nothing was kept') from value
        elif (reason := os_error(value)) is not None:
            raise self._failure(reason) from value

    def _check(self) -> None:
        pass

    def _commit(self) -> None:
        pass

    def _know(self, folder: Path) -> None:
        self.folder = folder

    def _clean(self) -> None:
        if self.folder != self.target:
            partial.remove(self.folder)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _failure(self, reason: OSError) -> NeuronChunkError:
        return self._error(failure(self.target, reason, 'nothing was kept'))


class AtomicFolder(ScratchFolder):
    """Context manager: write into `.folder`; on success it is renamed to `target`.

    Any exception, also Ctrl-C, removes everything written.
    """

    def __init__(self, target: Path, needed_bytes: int = 0,
                 error: type[NeuronChunkError] = BundleError, replace: bool = False):
        """`replace`: a folder that is there already is exchanged for the new one."""
        super().__init__(target, needed_bytes, error)
        self._replace = replace

    def _check(self) -> None:
        if not self._replace or not self.target.is_dir():
            check_target(self.target, self._error)

    def _commit(self) -> None:
        for folder, _, files in os.walk(self.folder):
            for name in files:
                sync(Path(folder) / name)
            sync(Path(folder))
        self._check()
        if self._replace and self.target.is_dir():
            _exchange(self.folder, self.target)  # ours is the old one now, and removed
        else:
            try:
                os.rename(self.folder, self.target)
            except OSError as reason:
                if reason.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another writer was first
                    check_target(self.target, self._error)
                raise
            self.folder = self.target
        _sync_after(self.target)

    def _failure(self, reason: OSError) -> NeuronChunkError:
        kept = 'it is as it was' if self._replace and self.target.is_dir() else 'nothing was kept'
        return self._error(failure(self.target, reason, kept))


def replace_file(path: Path, chunks: Iterable) -> None:
    """Write a file from bytes-like chunks, whole or not at all; one that is there is replaced.

    What is no regular file, such as a pipe or /dev/stdout, is written into. Raises OSError that
    has the file's name; UnsyncedError where the new content is in place, but not safe.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(path).st_mode):
                with open(path, 'wb') as file:
                    file.writelines(chunks)
                return
        with _beside(path) as fresh:
            with open(fresh, 'r+b', buffering=0) as file:
                _take_after(path, file.fileno())
                _write(file.fileno(), chunks)
                os.fsync(file.fileno())
            os.replace(fresh, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    _sync_after(path)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a new, empty file beside another; what of it is left at the end is removed."""
    partial.remove_stale(path)
    fresh, lock = path, -1

    def know(name: Path) -> None:
        nonlocal fresh
        fresh = name

    try:
        lock = partial.create(path, lambda name: name.touch(exist_ok=False), know)
        yield fresh
    finally:
        if fresh != path:
            partial.remove(fresh)
        if lock >= 0:
            os.close(lock)


def _take_after(path: Path, descriptor: int) -> None:
    """Give a file the owner and permissions of the one it is to replace, as far as it may."""
    with contextlib.suppress(OSError):
        old = os.stat(path)
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
        os.fchown(descriptor, old.st_uid, old.st_gid)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders in one step, or in two where the file system has no such step."""
    call = getattr(ctypes.CDLL(None, use_errno=True), 'renameat2', None)
    code = errno.ENOSYS
    if call is not None:
        if not call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
            return
        code = ctypes.get_errno()
    if code not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        raise OSError(code, os.strerror(code), str(other))
    aside = one.with_name(one.name[:-8] + secrets.token_hex(4))  # a partial name, too
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except BaseException:
        os.rename(aside, other)
        raise
    os.rename(aside, one)


def _sync_after(path: Path) -> None:
    """Flush the folder in which a name was just given. Raises UnsyncedError."""
    try:
        sync(path.parent)
    except OSError as error:
        raise UnsyncedError(error.errno, error.strerror, str(path)) from error


def check_target(target: Path, error: type[NeuronChunkError]) -> None:
    """Refuse a target that exists already or has no folder to be in. Raises `error`.

    What a writer left that was killed when it had made the target is removed: none follows it.
    """
    target = Path(os.path.abspath(target))
    if os.path.lexists(target):
        with contextlib.suppress(OSError):
            partial.remove_stale(target)
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
    with open(path, 'xb', buffering=0) as file:
        return _write(file.fileno(), chunks)


def _write(descriptor: int, chunks: Iterable) -> int:
    written = 0
    for chunk in chunks:
        written += write_all(descriptor, chunk, written)
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


def _mb(nbytes: int) -> str:
    return f'{nbytes / 1e6:,.1f} MB' if nbytes < 10e9 else f'{nbytes / 1e9:,.1f} GB'
