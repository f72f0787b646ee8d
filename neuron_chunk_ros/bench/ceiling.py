# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A ceiling on memory that the kernel enforces: a memory cgroup, where one may be made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path('/sys/fs/cgroup')


@dataclass(frozen=True)
class Ceiling:
    """A cgroup without a limit yet; processes enter it and set one themselves."""

    folder: Path
    limit: str  # the file that takes bytes

    def enter(self) -> None:
        """Move this process into it."""
        (self.folder / 'cgroup.procs').write_text(str(os.getpid()))

    def close_at(self, nbytes: int) -> None:
        """Let the kernel end whoever takes more. Pages of mapped files count, and can leave."""
        (self.folder / self.limit).write_text(str(nbytes))


@contextlib.contextmanager
def ceiling(name: str) -> Iterator[Ceiling | None]:
    """Give a cgroup that is gone afterwards; None where none may be made (it takes root)."""
    modern = (_ROOT / 'cgroup.controllers').exists()
    folder = (_ROOT if modern else _ROOT / 'memory') / f'neuron_chunk_{name}_{os.getpid()}'
    found = Ceiling(folder, 'memory.max' if modern else 'memory.limit_in_bytes')
    try:
        folder.mkdir()
    except OSError:
        yield None
        return
    try:
        yield found if (folder / found.limit).exists() else None
    finally:
        folder.rmdir()
