# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Comparing every byte of a bundle with its recorded checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from neuron_chunk_ros.storage.bundle import Bundle

_BLOCK_BYTES = 4 << 20


def verify(bundle: Bundle, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Read a bundle's groups and its other files; returns one line per damaged one.

    progress is called with (bytes done, bytes in all).
    """
    parts = [(f'group {group.name}', bundle.path / group.file, group.offset, group.nbytes,
              group.checksum) for group in bundle.stored.values()]
    parts += [(name, bundle.path / name, 0, _size(bundle.path / name), checksum)
              for name, checksum in bundle.checksums.items()]
    total = sum(part[3] for part in parts)
    done = 0
    problems = []
    for label, path, offset, nbytes, expected in parts:
        where = f'{label} in {path}' if offset else str(path)
        try:
            if digest(path, offset, nbytes) != expected:
                problems.append(f'{where}: checksum differs, the data is damaged')
        except OSError as error:
            problems.append(f'{where}: {error.strerror}')
        except EOFError:
            problems.append(f'{where}: truncated')
        done += nbytes
        if progress is not None:
            progress(done, total)
    return problems


def digest(path: Path, offset: int, nbytes: int) -> str:
    """Return the sha256 of a byte range. Raises OSError, EOFError where the file ends early."""
    block = bytearray(_BLOCK_BYTES)
    view = memoryview(block)
    checksum = hashlib.sha256()
    with open(path, 'rb', buffering=0) as file:
        position, end = offset, offset + nbytes
        while position < end:
            got = os.preadv(file.fileno(), [view[:min(_BLOCK_BYTES, end - position)]], position)
            if got == 0:
                raise EOFError(path)
            checksum.update(view[:got])
            position += got
        # checking must not push the robot's own working set out of the page cache
        os.posix_fadvise(file.fileno(), offset, nbytes, os.POSIX_FADV_DONTNEED)
    return checksum.hexdigest()


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
