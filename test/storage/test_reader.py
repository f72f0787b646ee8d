# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every back end against plain file reads, byte for byte, and everything that can go wrong."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros import _native
from neuron_chunk_ros.errors import NeuronChunkError, ReadError
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


@pytest.fixture(scope='module')
def content():
    return np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)


@pytest.fixture(scope='module')
def disk_file(tmp_path_factory, content):
    path = tmp_path_factory.mktemp('reader') / 'data.bin'
    content.tofile(path)
    return path


@pytest.fixture(scope='module')
def memory_file(content):
    if not SHM.is_dir() or not os.access(SHM, os.W_OK):
        pytest.skip('no writable tmpfs at /dev/shm')
    with tempfile.NamedTemporaryFile(dir=SHM, suffix='.bin') as file:
        content.tofile(file.name)
        yield Path(file.name)


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
@matrix
def test_truncated_after_open(tmp_path, backend, direct, content):
    path = tmp_path / 'cut.bin'
    content.tofile(path)
    with open_reader(path, backend, direct) as reader:
        buffer = reader.allocate(4 * MIB)
        cut = 1_000_001
        os.truncate(path, cut)
        for extents in ([(0, SIZE)], [(cut - 10, 11)], [(cut + 5000, 10)], [(0, 9), (cut, 1)]):
            with pytest.raises(ReadError, match='ends at offset') as caught:
                reader.read(0, extents, buffer)
            assert caught.value.path == str(path) and str(path) in str(caught.value)
            assert caught.value.offset >= cut - 10
        # Still usable, up to the very last byte.
        check(reader, path, [(cut - 10, 10), (3, 4)], buffer)


@backends
def test_an_error_of_the_device(disk_file, backend):
    """A directory in a file's place can't happen after open; a descriptor gone bad can."""
    with Reader([disk_file], backend, 'off') as reader:
        buffer = reader.allocate(MIB)
        before = [f for f in os.listdir('/proc/self/fd') if _link(f) == str(disk_file)]
        assert len(before) == 1
        number = int(before[0])
        saved = os.dup(number)
        hollow = os.open('/', os.O_RDONLY)
        os.dup2(hollow, number)
        try:
            with pytest.raises(ReadError) as caught:
                reader.read(0, [(4096, 10)], buffer)
        finally:
            os.dup2(saved, number)
            os.close(saved)
            os.close(hollow)
        assert 'offset 4096' in str(caught.value) and os.strerror(21) in str(caught.value)
        assert (caught.value.errno, caught.value.offset) == (21, 4096)
        check(reader, disk_file, [(4096, 10)], buffer)


def _link(number):
    try:
        return os.readlink(f'/proc/self/fd/{number}')
    except OSError:
        return None


@backends
def test_files_that_cant_be_opened(tmp_path, backend):
    missing = tmp_path / 'missing.bin'
    with pytest.raises(ReadError, match='No such file') as caught:
        Reader([missing], backend)
    assert str(missing) in str(caught.value) and caught.value.path == str(missing)
    assert isinstance(caught.value, NeuronChunkError) and '\n' not in str(caught.value)
    with pytest.raises(ReadError, match='not a regular file'):
        Reader([tmp_path], backend)
    os.mkfifo(tmp_path / 'fifo')
    with pytest.raises(ReadError, match='not a regular file'):
        Reader([tmp_path / 'fifo'], backend)
    with pytest.raises(ReadError, match='at least one file'):
        Reader([], backend)


@backends
def test_an_empty_file(tmp_path, backend):
    path = tmp_path / 'empty.bin'
    path.touch()
    with Reader([path], backend) as reader:
        check(reader, path, [(0, 0)])
        with pytest.raises(ReadError, match='beyond'):
            reader.capacity(0, [(0, 1)])


@backends
@matrix
def test_misuse(disk_file, backend, direct):
    with open_reader(disk_file, backend, direct) as reader:
        buffer = reader.allocate(MIB)

        def refused(match, extents, file=0, at=0):
            with pytest.raises(ReadError, match=match):
                reader.submit(file, extents, buffer, at)

        refused('beyond', [(SIZE, 1)])
        refused('beyond', [(0, 5), (SIZE - 5, 6)])
        refused('beyond', [(2**63 - 1, 1)])
        refused('beyond', [(1, 2**63 - 1)])
        refused('negative', [(-1, 5)])
        refused('negative', [(5, -1)])
        refused('too small', [(0, MIB + 1)])
        refused('too small', [(0, 5)], at=MIB)
        refused('too small', [(0, 5)], at=2**40)
        refused('multiple', [(0, 5)], at=-reader.block_size)
        refused('file 1', [(0, 5)], file=1)
        refused('file -1', [(0, 5)], file=-1)
        refused('shape', [1, 2, 3])
        refused('shape', [(1.0, 2.0)])
        if reader.direct:
            refused('multiple', [(0, 5)], at=1)
        # None of it did harm.
        check(reader, disk_file, [(SIZE - 5, 5)], buffer)


def test_bad_options(disk_file):
    for options in [{'backend': 'aio'}, {'direct': 'yes'}, {'threads': 0}, {'threads': 10**6},
                    {'queue_depth': 0}, {'queue_depth': 10**6}]:
        with pytest.raises(ReadError):
            Reader([disk_file], **options)


def test_buffer():
    for nbytes in (1, 4096, 2 * MIB, 2 * MIB + 1, 9 * MIB):
        buffer = _native.Buffer(nbytes)
        view = np.frombuffer(buffer, np.uint8)
        assert buffer.nbytes == len(view) == nbytes
        assert view.ctypes.data % (2 * MIB) == 0
        assert view.flags.writeable and not view.any()
        view[-1] = 7
        assert memoryview(buffer)[nbytes - 1] == 7
    for nbytes in (0, -1):
        with pytest.raises(ValueError):
            _native.Buffer(nbytes)
    with pytest.raises(MemoryError):
        _native.Buffer(2**62)


def test_a_view_keeps_the_buffer_alive():
    view = np.frombuffer(_native.Buffer(4096), np.uint8)
    gc.collect()
    view[:] = 1
    assert view.sum() == 4096


@backends
@matrix
def test_several_batches_in_flight(disk_file, backend, direct):
    with open_reader(disk_file, backend, direct, threads=2, queue_depth=4) as reader:
        rng = np.random.default_rng(3)
        buffer = reader.allocate(32 * MIB)
        for _ in range(10):
            batches = []
            for slot in range(8):
                offsets = np.sort(rng.integers(0, SIZE - 20_000, 40))
                extents = np.stack([offsets, rng.integers(0, 20_000, 40)], 1)
                at = slot * 4 * MIB
                batches.append((reader.submit(0, extents, buffer, at), extents, at))
            # Waited for in another order than submitted.
            for batch, extents, at in (batches[i] for i in rng.permutation(8)):
                stats = batch.wait()
                want = plain_read(disk_file, extents.tolist())
                assert bytes(memoryview(buffer)[at:at + len(want)]) == want
                assert batch.ready and batch.wait().seconds == stats.seconds


@backends
def test_bytes_still_being_filled_are_refused(disk_file, backend):
    with open_reader(disk_file, backend, 'on', threads=1, queue_depth=1) as reader:
        buffer = reader.allocate(8 * MIB)
        scattered = [(offset, 512) for offset in range(0, 2_900_000, 2048)]
        first = reader.submit(0, scattered, buffer)
        with pytest.raises(ReadError, match='still being filled'):
            reader.submit(0, [(0, 512)], buffer, 512)
        first.wait()
        check(reader, disk_file, [(0, 512)], buffer, 512)


@backends
@matrix
def test_dropped_batches(disk_file, backend, direct):
    with open_reader(disk_file, backend, direct) as reader:
        buffer = reader.allocate(8 * MIB)
        scattered = [(offset, 700) for offset in range(0, 2_900_000, 2500)]
        for _ in range(30):
            reader.submit(0, scattered, buffer)
        # Free at once for another read: nothing of the dropped ones arrives late.
        view = np.frombuffer(buffer, np.uint8)
        view[:] = 0
        time.sleep(0.02)
        assert not view.any()
        check(reader, disk_file, scattered, buffer)
    # The buffer, the reader and the batch may go in any order.
    reader = open_reader(disk_file, backend, direct)
    batch = reader.submit(0, scattered, reader.allocate(8 * MIB))
    del reader
    gc.collect()
    assert batch.wait().bytes_wanted == 700 * len(scattered)


@backends
@matrix
def test_close(disk_file, backend, direct):
    for _ in range(20):
        reader = open_reader(disk_file, backend, direct, threads=2, queue_depth=2)
        buffers = [reader.allocate(4 * MIB) for _ in range(4)]
        extents = [(offset, 700) for offset in range(0, 2_900_000, 2500)]
        batches = [reader.submit(0, extents, buffer) for buffer in buffers]
        reader.close()
        reader.close()
        for batch, buffer in zip(batches, buffers, strict=True):
            assert batch.ready
            try:
                nbytes = batch.wait().bytes_wanted
            except ReadError as error:
                assert 'closed' in str(error)
            else:
                want = plain_read(disk_file, extents)
                assert bytes(memoryview(buffer)[:nbytes]) == want
        with pytest.raises(ReadError, match='closed'):
            reader.read(0, [(0, 1)], buffers[0])


@backends
@matrix
def test_two_threads_at_once(disk_file, backend, direct):
    wrong = []
    with open_reader(disk_file, backend, direct, threads=3, queue_depth=8) as reader:

        def work(seed):
            try:
                rng = np.random.default_rng(seed)
                buffer = reader.allocate(4 * MIB)
                for turn in range(60):
                    offsets = rng.integers(0, SIZE - 9000, 20)
                    extents = np.stack([offsets, rng.integers(0, 9000, 20)], 1)
                    if turn % 5 == 4:
                        reader.submit(0, extents, buffer)  # dropped
                    if turn % 7 == 6:
                        with pytest.raises(ReadError):
                            reader.read(0, [(SIZE, 1)], buffer)
                    check(reader, disk_file, extents.tolist(), buffer)
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@backends
@matrix
def test_nothing_leaks(disk_file, backend, direct):
    def counts():
        gc.collect()
        return len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))

    open_reader(disk_file, backend, direct).close()
    before = counts()
    for turn in range(50):
        reader = open_reader(disk_file, backend, direct)
        batch = reader.submit(0, [(0, 9000), (50_000, 10)], reader.allocate(MIB))
        if turn % 2:
            batch.wait()
        if turn % 3:
            reader.close()
        del reader, batch
        with pytest.raises(ReadError):
            Reader([disk_file, disk_file.with_name('missing')], backend)
    # A thread that was joined may stay listed for a moment.
    deadline = time.monotonic() + 5
    while counts() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert counts() == before


@backends
def test_the_gil_is_free_while_reading(disk_file, backend):
    """Another Python thread runs while this one waits for a long batch."""
    with open_reader(disk_file, backend, 'on', threads=1, queue_depth=1) as reader:
        buffer = reader.allocate(8 * MIB)
        scattered = [(offset, 512) for offset in range(0, 2_900_000, 1024)]
        counted = [0]
        stop = threading.Event()

        def count():
            while not stop.is_set():
                counted[0] += 1

        thread = threading.Thread(target=count)
        thread.start()
        reader.read(0, scattered, buffer)
        before = counted[0]
        stats = reader.read(0, scattered, buffer)
        during = counted[0] - before
        stop.set()
        thread.join()
        # Switching threads by force happens every 5 ms only; a held GIL would give none of it.
        assert during > 100, (during, stats)


# As containers refuse it: a seccomp filter that answers a system call with an errno. The numbers
# 425 (io_uring_setup) and 426 (io_uring_enter) are the same on every architecture.
REFUSED = '''
import ctypes, struct, sys
call, errno, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
from neuron_chunk_ros import _native
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.reader import Reader
program = b''.join(struct.pack('HBBI', *line) for line in [
    (0x20, 0, 0, 0),                   # load the number of the system call
    (0x15, 0, 1, call),                # skip one unless it is the one
    (0x06, 0, 0, 0x00050000 | errno),  # refuse
    (0x06, 0, 0, 0x7FFF0000)])         # allow
code = ctypes.create_string_buffer(program)
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
filter = Program(4, ctypes.addressof(code))
if libc.prctl(22, 2, ctypes.byref(filter), 0, 0) != 0:
    print('no seccomp')
    sys.exit()
with Reader([path]) as reader:
    print(reader.backend, reader.read(0, [(5, 7)], reader.allocate(9000)).bytes_wanted)
    print(*reader.notes)
try:
    Reader([path], 'io_uring')
except ReadError as error:
    print(error)
print(_native.io_uring_available())
'''


@pytest.mark.parametrize('number', [1, 12, 38])  # EPERM, ENOMEM, ENOSYS
@pytest.mark.parametrize('call', [425, 426])
@pytest.mark.skipif(not _native.io_uring_available(), reason='io_uring is not available here')
def test_io_uring_refused_by_the_container(disk_file, call, number):
    done = subprocess.run(
        [sys.executable, '-c', REFUSED, str(call), str(number), str(disk_file)], timeout=60,
        capture_output=True, text=True)
    if done.stdout.startswith('no seccomp'):
        pytest.skip('this kernel has no seccomp filters')
    lines = done.stdout.splitlines()
    assert lines[0] == 'threads 7', done
    assert 'io_uring' in lines[1] and os.strerror(number) in lines[1], done
    assert 'threads' in lines[2] and os.strerror(number) in lines[2], done
    assert lines[3] == 'False'


def test_direct_io_refused_by_open():
    """Where open() itself answers EINVAL, as sysfs does."""
    path = Path('/sys/kernel/mm/transparent_hugepage/enabled')
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        if error.errno != 22:
            pytest.skip(f'no file here whose file system refuses O_DIRECT at open: {error}')
    else:
        pytest.skip('sysfs takes O_DIRECT on this kernel')
    with Reader([path], 'threads') as reader:
        assert not reader.direct and str(path) in reader.notes[0]
        check(reader, path, [(1, 5)])
    with pytest.raises(ReadError, match='no direct I/O'):
        Reader([path], 'threads', 'on')


INTERRUPTED = '''
import os, sys, threading, signal, time
from neuron_chunk_ros.storage.reader import Reader
reader = Reader([sys.argv[1]], sys.argv[2], 'off')
fd = [int(n) for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')
      and os.readlink(f'/proc/self/fd/{n}') == sys.argv[1]][0]
read_end, write_end = os.pipe()
os.dup2(read_end, fd)  # a device that does not answer
batch = reader.submit(0, [(0, 100)], reader.allocate(4096))
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
begun = time.monotonic()
try:
    batch.wait()
except KeyboardInterrupt:
    print('interrupted', time.monotonic() - begun < 5, flush=True)
os.write(write_end, b'x' * 100)
try:
    print(batch.wait().bytes_wanted)
except Exception as error:
    print(error)
'''


@pytest.mark.skipif(not _native.io_uring_available(), reason='io_uring is not available here')
def test_ctrl_c_ends_a_wait(disk_file):
    """Python handles the signal although the device never answers; the batch stays waitable."""
    done = subprocess.run(
        [sys.executable, '-c', INTERRUPTED, str(disk_file), 'io_uring'], timeout=60,
        capture_output=True, text=True)
    assert done.stdout.startswith('interrupted True'), done


def test_signals_reach_python_not_the_workers(disk_file):
    """SIGINT sent to the process ends up in the main thread whatever the workers do."""
    with Reader([disk_file]) as reader:
        buffer = reader.allocate(4 * MIB)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                reader.read(0, [(0, 100_000)], buffer)
        check(reader, disk_file, [(0, 100_000)], buffer)
