# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What went wrong with a disk, in one line: what could not be written, why, and the cure."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

_CURES = {
    errno.ENOSPC: 'make room and begin again',
    errno.EDQUOT: 'make room, or have the quota raised, and begin again',
    errno.EFBIG: 'the file system, or ulimit -f, allows no file that large',
    errno.EIO: 'the drive failed, dmesg says how',
    errno.EROFS: 'choose a place that can be written',
    errno.EACCES: 'choose a place that can be written, or change its permissions',
    errno.EPERM: 'choose a place that can be written, or change its permissions',
    errno.ENOMEM: 'give the process more memory',
}
# Libraries in Rust (safetensors, tokenizers) tell the number in their text alone.
_IN_TEXT = re.compile(r'\(os error (\d{1,3})\)', re.ASCII)


class UnsyncedError(OSError):
    """The new content is in its place, but the disk failed to say that it will stay there."""


def failure(path: Path, error: OSError, kept: str) -> str:
    """Return the line for what could not be written.

    :param kept: what is true then: 'nothing was kept', 'it is as it was'.
    """
    if isinstance(error, UnsyncedError):
        return f'{path} is written, but may be gone after a power failure: {reason(error)}'
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f'disk full while writing {path}; {kept}: {_CURES[error.errno]}'
    where = f' ({error.filename})' if error.filename and str(error.filename) != str(path) else ''
    return f'cannot write {path}: {reason(error)}{where}; {kept}'


def reason(error: OSError) -> str:
    """Return the system's words, and the cure where one is known."""
    text = error.strerror or str(error)
    cure = _CURES.get(error.errno)
    return f'{text}, {cure}' if cure else text


def os_error(error: BaseException | None) -> OSError | None:
    """Return the disk's error that an exception is or tells of; None for any other."""
    if isinstance(error, OSError):
        return error
    if type(error).__module__ == 'sqlite3' and type(error).__name__ == 'OperationalError':
        return OSError(errno.ENOSPC if 'full' in str(error) else errno.EIO, str(error))
    found = _IN_TEXT.search(str(error)) if isinstance(error, Exception) else None
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None
