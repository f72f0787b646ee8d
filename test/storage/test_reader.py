# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every back end against plain file reads, byte for byte, and which one reads directly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_cases import MIB, SHM, SIZE, backends, check, extent_lists, matrix, open_reader

from neuron_chunk_ros import _native
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.reader import Reader


@pytest.fixture(scope='module', params=['disk', 'tmpfs'])
def place(request):
    return request.getfixturevalue('disk_file' if request.param == 'disk' else 'memory_file')


@backends
@pytest.mark.parametrize('direct', ['on', 'auto', 'off'])
def test_same_bytes_as_plain_reads(place, backend, direct):
    if direct == 'on' and place.parent == SHM:
        direct = 'auto'  # refused there: test_no_direct_io_on_tmpfs
    with open_reader(place, backend, direct, threads=3, queue_depth=5) as reader:
        assert reader.backend == backend
        buffer = reader.allocate(40 * MIB)
        np.frombuffer(buffer, np.uint8)[:] = 0xAA

        @settings(max_examples=60, deadline=None)
        @given(extent_lists(), st.integers(0, 3))
        def run(extents, blocks):
            # One buffer for all: what an earlier read left behind must never show.
            stats = check(reader, place, extents, buffer, blocks * reader.block_size)
            assert stats.bytes_read <= reader.capacity(0, extents)
            if not reader.direct:
                assert stats.bytes_read == stats.bytes_wanted

        run()


@backends
@matrix
def test_small_requests(disk_file, backend, direct, content):
    """Runs split into many requests, whose parts move down piece by piece."""
    try:
        reader = _native.Reader([str(disk_file)], backend, direct, 4, 3, max_request=4096)
    except _native.ReadError as error:
        pytest.skip(f'no O_DIRECT where the tests write: {error}')
    buffer = _native.Buffer(8 * MIB)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        offsets = np.sort(rng.integers(0, SIZE - 50_000, 30))
        extents = np.stack([offsets, rng.integers(0, 50_000, 30)], 1)
        stats = reader.read(0, extents, buffer)
        want = np.concatenate([content[o:o + n] for o, n in extents])
        assert (np.frombuffer(buffer, np.uint8)[:stats.bytes_wanted] == want).all()
    reader.close()


@backends
@matrix
def test_edges(disk_file, backend, direct):
    with open_reader(disk_file, backend, direct) as reader:
        for extents in [[], np.empty((0, 2)), [(0, 0)], [(SIZE, 0)], [(0, 1)], [(SIZE - 1, 1)],
                        [(0, SIZE)], [(SIZE - 1, 1), (0, 1)], [(5, 7)] * 9, [(4095, 2), (4097, 2)],
                        [(0, 4096), (SIZE, 0), (4096, 4096)], [(9, 0), (8, 3)]]:
            check(reader, disk_file, extents)
        for kind in (np.int32, np.uint64, np.int16):
            check(reader, disk_file, np.array([[3, 9], [40, 11]], kind))
        whole = np.arange(40).reshape(10, 4)
        check(reader, disk_file, whole[:, ::2])
        assert reader.capacity(0, []) == 0


@backends
def test_direct_reads_merge_and_split(disk_file, backend):
    with open_reader(disk_file, backend, 'on') as reader:
        block = reader.block_size
        assert block >= 1 and block & (block - 1) == 0
        one = check(reader, disk_file, [(0, block), (block, block), (2 * block, 2 * block)])
        assert (one.requests, one.bytes_read) == (1, 4 * block)
        # In one block, in neighbouring blocks: one request. A block between them: two.
        assert check(reader, disk_file, [(0, 10), (20, 10), (block + 5, 5)]).requests == 1
        assert check(reader, disk_file, [(0, 10), (2 * block, 10)]).requests == 2
        # Bytes that overlap or go back can't be packed in place: read again.
        assert check(reader, disk_file, [(0, 10), (0, 10)]).requests == 2
        assert check(reader, disk_file, [(0, 5 * MIB // 2)]).requests == 3
        assert one.seconds > 0


@backends
def test_buffered_reads_take_nothing_else(disk_file, backend):
    with Reader([disk_file], backend, 'off') as reader:
        assert (reader.direct, reader.block_size, reader.notes) == (False, 1, [])
        stats = check(reader, disk_file, [(3, 10), (13, 10), (30, 1)], at=7)
        assert (stats.requests, stats.bytes_read) == (2, 21)
        assert reader.capacity(0, [(3, 10), (13, 10), (30, 1)]) == 21


@backends
def test_no_direct_io_on_tmpfs(memory_file, disk_file, backend):
    with Reader([memory_file], backend, 'auto') as reader:
        assert not reader.direct
        assert len(reader.notes) == 1
        assert str(memory_file) in reader.notes[0] and 'page cache' in reader.notes[0]
    with pytest.raises(ReadError, match=f'{memory_file}.*direct I/O.*auto'):
        Reader([memory_file], backend, 'on')
    # One file without it makes the whole reader buffered.
    with Reader([disk_file, memory_file], backend, 'auto') as reader:
        assert not reader.direct
        check(reader, disk_file, [(1, 5)], file=0)
        check(reader, memory_file, [(1, 5)], file=1)


def test_direct_io_is_used_where_it_exists(disk_file):
    open_reader(disk_file, 'threads', 'on').close()  # skips where the tests' disk has none
    with Reader([disk_file]) as reader:
        assert reader.direct and not [note for note in reader.notes if 'direct' in note]
        assert reader.backend == ('io_uring' if _native.io_uring_available() else 'threads')


@backends
@pytest.mark.parametrize('direct', ['on', 'off'])
def test_what_is_said_to_be_there_is_there(disk_file, backend, direct, content):
    """The bytes in place are a prefix of what was asked for, at any moment, and grow to all."""
    with open_reader(disk_file, backend, direct) as reader:
        buffer = reader.allocate(60 * MIB)
        memory = np.frombuffer(buffer, np.uint8)

        @settings(max_examples=60, deadline=None)
        @given(extent_lists(), st.integers(1, 3 * MIB))
        def run(extents, step):
            memory[:] = 0x55
            want = np.concatenate([content[o:o + n] for o, n in extents] or [content[:0]])
            batch, there = reader.submit(0, extents, buffer), 0
            while there < len(want):
                there = batch.wait_bytes(min(there + step, len(want)), 0.05)
                assert (memory[:there] == want[:there]).all()
            assert batch.wait().bytes_wanted == len(want) == there
            assert batch.wait_bytes(10**15, 0.0) == len(want)
        run()


@backends
def test_waiting_for_bytes_of_a_batch_that_fails_ends(tmp_path, backend, content):
    path = tmp_path / 'cut.bin'
    content.tofile(path)
    with Reader([path], backend) as reader:
        buffer = reader.allocate(8 * MIB)
        path.open('r+b').truncate(MIB)
        batch = reader.submit(0, [(0, 2 * MIB)], buffer)
        while not batch.ready:
            assert batch.wait_bytes(2 * MIB, 0.05) <= MIB
        with pytest.raises(ReadError, match='ends at offset'):
            batch.wait()
