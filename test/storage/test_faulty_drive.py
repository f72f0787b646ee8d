# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Reads that fail, come short, late or not at all, through the real back ends.

For the pool of threads the reads themselves are intercepted (faulty_reads.c). io_uring's are the
kernel's: for it, and for the threads once more, the whole file system is ours (fuse_drive.py).
"""

import signal
import time

import pytest
from faulty_reads import FaultyDrive
from fuse_drive import FuseDrive

from neuron_chunk_ros import _native

PRELOADED = pytest.param(('preloaded', 'threads'), id='preloaded')
RING = pytest.param(('fuse', 'io_uring'), id='fuse-io_uring', marks=pytest.mark.skipif(
    not _native.io_uring_available(), reason='io_uring is not built in or not allowed here'))
THREADS = pytest.param(('fuse', 'threads'), id='fuse-threads', marks=pytest.mark.slow)
drives = pytest.mark.parametrize('drive', [PRELOADED, THREADS, RING], indirect=True)


@pytest.fixture(scope='module')
def drive(request, disk_file, tmp_path_factory):
    kind, backend = request.param
    folder = tmp_path_factory.mktemp('faulty')
    made = FaultyDrive(folder, kind == 'preloaded')
    made.file, made.backend = disk_file, backend
    if kind == 'preloaded':
        yield made
        return
    (folder / 'mounted').mkdir()
    fuse = FuseDrive(disk_file.parent, folder / 'mounted', made.orders)
    try:
        made.file = folder / 'mounted' / disk_file.name
        yield made
    finally:
        fuse.close()


# What every program begins with. `reads` counts the drive's reads of the batch that is done wrong.
BEGINNING = """
import errno, os, sys, threading, time
import numpy as np
from faulty_reads import DELAY, ERROR, EVER, HANG, NOTHING, SHORT, Orders
from neuron_chunk_ros import _native
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.reader import Reader
path, direct, backend = sys.argv[1:]
content = np.fromfile(path, np.uint8)
orders = Orders(os.environ['FAULTY_ORDERS'])
EXTENTS = [(0, 9000), (20_000, 5), (40_000, 30_000), (90_000, 4096), (200_000, 1)]
WANT = np.concatenate([content[at:at + n] for at, n in EXTENTS])

def opened(threads=2):
    try:
        # Small requests: the third extent is read in several.
        reader = _native.Reader([path], backend, direct, threads, 4, max_request=8192)
    except _native.ReadError as error:
        print('skip:', error)
        sys.exit()
    return reader, _native.Buffer(1 << 20)

def check(buffer, want=WANT):
    assert (np.frombuffer(buffer, np.uint8)[:len(want)] == want).all()

reader, buffer = opened()
orders.give(NOTHING)
requests = reader.read(0, EXTENTS, buffer).requests
assert requests == orders.seen > 6
check(buffer)
"""

EVERY_READ = BEGINNING + """
for threads in (1, 3):
    reader, buffer = opened(threads)
    block = max(reader.block_size, 1)
    for bad in range(requests):
        for number in (errno.EIO, errno.ENODEV, errno.ENOMEM, errno.EBADMSG):
            orders.give(ERROR, number, bad)
            try:
                reader.read(0, EXTENTS, buffer)
                sys.exit(f'read {bad} failed and nothing was said')
            except _native.ReadError as error:
                assert (error.errno, error.filename) == (number, path), error
                assert any(at - block < error.offset <= at + n for at, n in EXTENTS), error
                assert os.strerror(number) in str(error) and path in str(error)
            reader.read(0, EXTENTS, buffer)
            check(buffer)
        np.frombuffer(buffer, np.uint8)[:] = 0
        orders.give(SHORT, block, bad, times=3)
        assert reader.read(0, EXTENTS, buffer).bytes_wanted == len(WANT)
        check(buffer)
        for number in (errno.EINTR, errno.EAGAIN):
            np.frombuffer(buffer, np.uint8)[:] = 0
            orders.give(ERROR, number, bad, times=5)
            reader.read(0, EXTENTS, buffer)
            check(buffer)
        orders.give(DELAY, 15, bad)
        batch = reader.submit(0, EXTENTS, buffer)
        assert batch.wait(0.001) is None
        while (there := batch.wait_bytes(len(WANT), 0.02)) < len(WANT):
            check(buffer, WANT[:there])
        batch.wait()
        check(buffer)
"""


@drives
@pytest.mark.parametrize('direct', ['on', 'off'])
def test_a_fault_at_any_read(drive, direct):
    drive.run(EVERY_READ, drive.file, direct, drive.backend)


FOR_EVER = BEGINNING + """
for number in (errno.EINTR, errno.EAGAIN):
    if (backend, number) == ('io_uring', errno.EAGAIN):
        continue  # the kernel asks such a file system again by itself, for ever
    orders.give(ERROR, number, 1, times=EVER)
    try:
        reader.read(0, EXTENTS, buffer)
        sys.exit('read all the same')
    except _native.ReadError as error:
        assert error.errno == number, error
    orders.give(NOTHING)
    reader.read(0, EXTENTS, buffer)
    check(buffer)
"""


@pytest.mark.parametrize('drive', [
    PRELOADED, pytest.param(*RING.values, id=RING.id, marks=[*RING.marks, pytest.mark.slow])],
    indirect=True)
def test_a_drive_that_says_again_for_ever_ends_its_reads(drive):
    drive.run(FOR_EVER, drive.file, 'off', drive.backend)


ANY_HANGS = BEGINNING + """
for bad in range(requests):
    orders.give(HANG, first=bad)
    held, other = reader.submit(0, EXTENTS, buffer), _native.Buffer(1 << 20)
    assert held.wait(0.02) is None and not held.ready
    while not orders.hanging:
        time.sleep(0.001)
    # One of two threads is gone; the other one serves whoever else reads.
    reader.read(0, EXTENTS, other)
    check(other)
    check(buffer, WANT[:held.wait_bytes(len(WANT), 0.0)])
    try:
        reader.submit(0, EXTENTS, buffer)
        sys.exit('filled twice at a time')
    except ValueError as error:
        assert 'still being filled' in str(error)
    orders.release()
    held.wait()
    check(buffer)
"""


@drives
@pytest.mark.parametrize('direct', ['on', 'off'])
def test_a_read_that_hangs_holds_nobody_else(drive, direct):
    drive.run(ANY_HANGS, drive.file, direct, drive.backend)


# close() waits for the reads under way, since they fill memory that is the caller's. Who may not
# wait, closes in a thread of its own, as the node does.
CLOSED = BEGINNING + """
orders.give(HANG, first=2)
held, waiting = reader.submit(0, EXTENTS, buffer), reader.submit(0, EXTENTS, buffer, 1 << 19)
while not orders.hanging:
    time.sleep(0.001)
closers = [threading.Thread(target=reader.close) for _ in range(2)]
for closer in closers:
    closer.start()
closers[0].join(0.2)
assert all(closer.is_alive() for closer in closers)
# Others are refused meanwhile, not held.
for _ in range(20):
    try:
        reader.submit(0, EXTENTS, _native.Buffer(1 << 20))
        sys.exit('taken all the same')
    except ValueError as error:
        assert 'closed' in str(error), error
assert reader.capacity(0, EXTENTS) >= len(WANT) and reader.block_size
assert held.wait(0) is None
orders.release()
for closer in closers:
    closer.join(20)
    assert not closer.is_alive()
for batch, at in ((held, 0), (waiting, 1 << 19)):
    try:
        batch.wait()
        assert (np.frombuffer(buffer, np.uint8)[at:at + len(WANT)] == WANT).all()
    except _native.ReadError as error:
        assert error.errno == errno.ECANCELED, error
assert str(reader.capacity(0, EXTENTS)).isdigit()
"""


@drives
def test_closing_waits_for_a_hanging_read_and_holds_nobody_else(drive):
    drive.run(CLOSED, drive.file, 'off', drive.backend)


ENDING = BEGINNING + """
orders.give(HANG, first=2)
held = reader.submit(0, EXTENTS, buffer)
while not orders.hanging:
    time.sleep(0.001)
print('hangs', flush=True)
"""
WAYS = {'_exit': 'os._exit(7)', 'exit': 'sys.exit(7)', 'sleep': 'time.sleep(600)'}


def ended(running, seconds):
    end = time.monotonic() + seconds
    while running.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    return running.returncode


@drives
@pytest.mark.parametrize('way', WAYS)
def test_the_end_of_a_process_with_a_hanging_read(drive, way):
    """An ordinary exit waits for the read to come back; os._exit and signals don't have to.

    An ordinary exit lets go of the batch, whose memory the read still fills. A process that must
    end whatever its drive does calls os._exit, as the node does. But a thread that the kernel
    doesn't let go, amid a read of a drive that doesn't answer, holds the whole process, also
    against SIGKILL. Of io_uring's reads none is waited for in a thread.
    """
    held = way == 'exit' or 'mounted' in drive.file.parts and drive.backend == 'threads'
    with drive.start(ENDING + WAYS[way], drive.file, 'off', drive.backend) as running:
        try:
            assert running.stdout.readline() == 'hangs\n'
            if way == 'sleep':
                running.send_signal(signal.SIGTERM)
            if held:
                assert ended(running, 0.5) is None
                drive.orders.release()
            assert ended(running, 20) == (-signal.SIGTERM if way == 'sleep' else 7)
        finally:
            drive.orders.release()
            running.kill()


UNTOLD = BEGINNING + """
for told, align, want in ((1 << 20, 512, 4096), (4096, 4096, 4096), (4096, 16384, 16384),
                          (512, 512, 512), (512, 4096, 4096), (3 << 20, 512, 4096), (1, 512, 512),
                          (65536, 131072, 131072)):
    orders.give(NOTHING, align=align, told=told)
    with _native.Reader([path], 'threads', 'on', 2, 4) as reader:
        assert reader.block_size == want, (told, align, reader.block_size)
        stats = reader.read(0, EXTENTS, buffer)
        check(buffer)
        assert stats.bytes_read <= len(WANT) + 3 * want * len(EXTENTS), (want, stats)
# No block that any drive has: not direct, and said.
orders.give(NOTHING, align=1 << 22, told=4096)
with _native.Reader([path], 'threads', 'auto', 2, 4) as reader:
    assert not reader.direct and 'no direct I/O' in reader.notes[0]
    reader.read(0, EXTENTS, buffer)
    check(buffer)
"""


@pytest.mark.parametrize('drive', [PRELOADED], indirect=True)
def test_where_the_kernel_tells_no_alignment(drive):
    """As before 6.1, on NFS and ZFS: the preferred size is none; a page at most, and tried."""
    drive.run(UNTOLD, drive.file, 'on', drive.backend)
