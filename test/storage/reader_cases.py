# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the reader tests share: readers for every back end, the comparison, lists of extents."""

from pathlib import Path

import pytest
from hypothesis import strategies as st

from neuron_chunk_ros import _native
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.reader import Reader

SIZE = 3_000_123  # no multiple of any block
MIB = 1 << 20
SHM = Path('/dev/shm')

BACKENDS = [
    pytest.param('threads', id='threads'),
    pytest.param('io_uring', id='io_uring', marks=pytest.mark.skipif(
        not _native.io_uring_available(), reason='io_uring is not built in or not allowed here')),
]
DIRECT = ['on', 'off']
matrix = pytest.mark.parametrize('direct', DIRECT)
backends = pytest.mark.parametrize('backend', BACKENDS)


def open_reader(path, backend, direct, **options):
    try:
        return Reader([path], backend, direct, **options)
    except ReadError as error:
        if direct == 'on' and 'direct I/O' in str(error):
            pytest.skip(f'no O_DIRECT where the tests write: {error}')
        raise


def plain_read(path, extents):
    with open(path, 'rb') as file:
        parts = []
        for offset, length in extents:
            file.seek(offset)
            parts.append(file.read(length))
        return b''.join(parts)


def check(reader, path, extents, buffer=None, at=0, file=0):
    """Read and compare; returns the stats."""
    buffer = buffer or reader.allocate(reader.capacity(file, extents) + at + 1)
    stats = reader.read(file, extents, buffer, at)
    want = plain_read(path, extents)
    assert stats.bytes_wanted == len(want)
    assert bytes(memoryview(buffer)[at:at + len(want)]) == want
    return stats


def extent_lists(size=SIZE):
    """Lists of extents that are unaligned, adjacent, overlapping, repeated, empty, at the end."""
    @st.composite
    def extents(draw):
        found = []
        for _ in range(draw(st.integers(0, 30))):
            kind = draw(st.sampled_from(
                ['any', 'aligned', 'after', 'near', 'over', 'again', 'end', 'none', 'long']))
            offset, length = found[-1] if found else (0, 0)
            if kind == 'any' or not found and kind in ('over', 'again'):
                offset, length = draw(st.integers(0, size)), draw(st.integers(0, 20_000))
            elif kind == 'aligned':
                offset = draw(st.integers(0, size // 4096 - 1)) * 4096
                length = draw(st.integers(1, 8)) * 4096
            elif kind == 'after':
                offset, length = offset + length, draw(st.integers(0, 9000))
            elif kind == 'near':
                offset = offset + length + draw(st.integers(0, 1200))
                length = draw(st.integers(1, 1200))
            elif kind == 'over':
                offset, length = offset + length // 2, draw(st.integers(0, 9000))
            elif kind == 'end':
                length = draw(st.integers(0, 9000))
                offset = size - length
            elif kind == 'none':
                length = 0
            elif kind == 'long':
                offset, length = draw(st.integers(0, size)), draw(st.integers(0, 2_600_000))
            offset = min(offset, size)
            found.append((offset, min(length, size - offset)))
        order = draw(st.sampled_from(['as is', 'ascending', 'descending']))
        if order != 'as is':
            found.sort(reverse=order == 'descending')
        return found
    return extents()
