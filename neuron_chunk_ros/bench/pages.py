# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where in memory a buffer's pages lie: half of what a direct read costs is decided there.

The device's side of a read names physical memory piece by piece. Pages that happen to lie in a
row are one piece; on a machine that has been up for a while ordinary 4 KiB pages hardly ever do,
on one fresh from booting some do. docs/BENCHMARKS.md shows what that is worth.
"""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

from neuron_chunk_ros import _native

_PAGE = 4096


def scattered_buffer(nbytes: int):
    """Return a buffer of ordinary pages in no order, as a machine has that has been up a while.

    Without this, the same benchmark would compare with another baseline after each boot.
    """
    buffer = _native.Buffer(nbytes, huge_pages=False)
    view = np.frombuffer(buffer, np.uint8)
    pages = len(view) // _PAGE
    libc = ctypes.CDLL(None, use_errno=True)
    # Hand the pages back, and have them anew in random order. Where the kernel refuses, they
    # stay as they were, and what pages_in_a_row reports tells.
    libc.madvise(ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(pages * _PAGE),
                 ctypes.c_int(mmap.MADV_DONTNEED))
    view[np.random.default_rng(0).permutation(pages) * _PAGE] = 1
    return buffer


def pages_in_a_row(buffer) -> float:
    """Return how many 4 KiB pages of a buffer lie side by side in memory, on average.

    0.0 where the system does not tell (only root may know).
    """
    view = np.frombuffer(buffer, np.uint8)
    pages = len(view) // _PAGE
    try:
        with open('/proc/self/pagemap', 'rb', buffering=0) as file:
            file.seek(view.ctypes.data // _PAGE * 8)
            entries = np.frombuffer(file.read(pages * 8), np.uint64)
    except OSError:
        return 0.0
    frames = (entries & np.uint64((1 << 55) - 1)).astype(np.int64)
    if not len(frames) or not frames.any():
        return 0.0
    return float(len(frames) / (1 + (np.diff(frames) != 1).sum()))
