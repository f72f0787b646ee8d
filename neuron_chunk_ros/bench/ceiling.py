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
        self.take(os.getpid())

    def take(self, pid: int) -> None:
        """Move a process into it. What it took before counts elsewhere: take it as it starts."""
        (self.folder / 'cgroup.procs').write_text(str(pid))

    def close_at(self, nbytes: int) -> None:
        """Let the kernel end whoever takes more. Pages of mapped files count, and can leave."""
        (self.folder / self.limit).write_text(str(nbytes))

    def held(self) -> int:
        """Return the bytes taken that can't leave: no pages of files."""
        name = 'anon' if self._modern else 'rss'
        return self._number('memory.stat', name) + self._number('memory.stat', 'shmem')

    def most(self) -> int:
        """Return the most bytes taken so far, pages of files included."""
        name = 'memory.peak' if self._modern else 'memory.max_usage_in_bytes'
        return int((self.folder / name).read_text())

    def killed(self) -> int:
        """Return how many processes the kernel has ended for taking more."""
        return self._number('memory.events' if self._modern else 'memory.oom_control', 'oom_kill')

    @property
    def _modern(self) -> bool:
        return self.limit == 'memory.max'

    def _number(self, file: str, name: str) -> int:
        rows = (line.split() for line in (self.folder / file).read_text().splitlines())
        return next((int(row[1]) for row in rows if row[0] == name), 0)


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
