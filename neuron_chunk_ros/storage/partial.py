# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is being written lies beside its target under a name that nobody takes for the target's.

`.NAME.partial-XXXXXXXX`, locked by its writer. A process killed outright leaves it behind; the
next writer of the same target removes what is not locked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path


def remove_stale(target: Path) -> None:
    """Remove what killed writers of this target left. Raises OSError."""
    pattern = re.compile(re.escape(f'.{target.name}.partial-') + '[0-9a-f]{8}', re.ASCII)
    with os.scandir(target.parent) as entries:
        stale = [Path(entry.path) for entry in entries
                 if pattern.fullmatch(entry.name) and not entry.is_symlink()]
    for path in stale:
        with contextlib.suppress(OSError):
            lock = _lock(path)
            if lock >= 0:
                remove(path)
                os.close(lock)


def create(target: Path, make: Callable[[Path], None], known: Callable[[Path], None]) -> int:
    """Make a file or folder under a partial name beside the target and lock it.

    :param make: makes it, raising FileExistsError where it is there.
    :param known: is told its path before it is there: an interruption must find it.
    :return: the lock, a descriptor to close at the end; -1 where the disk knows no locks.
    :raises OSError: where it can't be made.
    """
    for _ in range(8):
        path = target.parent / f'.{target.name}.partial-{secrets.token_hex(4)}'
        known(path)
        make(path)
        # another writer may have taken the unlocked, newborn one for a stale one
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            lock = _lock(path)
            if os.path.lexists(path):
                return lock
            if lock >= 0:
                os.close(lock)
    raise OSError(errno.EAGAIN, 'temporary names keep disappearing')


def remove(path: Path) -> None:
    """Remove a file or a folder as far as that is possible; the next writer tries again."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _lock(path: Path) -> int:
    """Lock for this process; -1 where the disk knows no locks. BlockingIOError: it is held."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor
