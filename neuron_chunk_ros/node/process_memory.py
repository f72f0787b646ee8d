# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the process takes of the robot's memory, and glibc's allocator told to take less."""

import ctypes
from pathlib import Path

_M_ARENA_MAX = -8  # malloc.h
_ARENAS = 2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 4 << 20


def limit_arenas():
    """Keep the allocator to two arenas; to be called before threads are started.

    Each of the executor's threads would get one of its own, and keep a camera frame or two of
    freed memory there: 65 MiB with 1280 x 720.
    """
    _call('mallopt', _M_ARENA_MAX, _ARENAS)


def keep_no_large_blocks():
    """Have blocks of an image's size given back as they are freed.

    glibc would learn from the first few to keep them, and a queue of large images would leave
    hundreds of MiB behind.
    """
    _call('mallopt', _M_MMAP_THRESHOLD, _LARGE)
    # Setting one stops glibc from choosing the other, which would stay at 128 KiB: all that is
    # freed at the heap's end would go back at once, and be asked for again.
    _call('mallopt', _M_TRIM_THRESHOLD, 2 * _LARGE)


def give_back_freed():
    """Hand memory that was freed back to the system."""
    _call('malloc_trim', 0)


def resident_mib() -> tuple[float, float]:
    """Return the process's resident memory now and at its peak [MiB], Python's included."""
    found = dict(line.split(':', 1) for line in
                 Path('/proc/self/status').read_text().splitlines() if ':' in line)
    return tuple(int(found[key].split()[0]) / 1024 for key in ('VmRSS', 'VmHWM'))


def _call(name: str, *arguments: int):
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:  # another C library does without
        function(*arguments)
