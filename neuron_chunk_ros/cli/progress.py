# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One progress bar for everything that counts bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def byte_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr while it is a terminal; yields a callback (bytes done, in all)."""
    from tqdm import tqdm
    with tqdm(desc=label, unit='B', unit_scale=True, disable=None, leave=False) as bar:
        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)
        yield show
