# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Buffers, batches and readers from beginning to end: in flight, dropped, closed, interrupted."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from reader_cases import MIB, SIZE, backends, check, matrix, open_reader, plain_read

from neuron_chunk_ros import _native
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.reader import Reader


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
    for nbytes in (2**46, 2**62, 2**63 - 1, 2**63 - 2**22):
        with pytest.raises(MemoryError):
            _native.Buffer(nbytes)
    with open('/proc/meminfo') as info:
        most = int(info.readline().split()[1]) << 10
    with pytest.raises(MemoryError):  # whatever the system would promise
        _native.Buffer(most + MIB)


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


UNANSWERED = '''
import os, sys, time
from neuron_chunk_ros.storage.reader import Reader
reader = Reader([sys.argv[1]], 'io_uring', 'off')
fd = [int(n) for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')
      and os.readlink(f'/proc/self/fd/{n}') == sys.argv[1]][0]
read_end, write_end = os.pipe()
os.dup2(read_end, fd)  # a device that does not answer
batch = reader.submit(0, [(0, 100)], reader.allocate(4096))
for timeout in (0, -1, float('nan'), 0.02, 0.3):
    begun = time.monotonic()
    assert batch.wait(timeout) is None, timeout
    took = time.monotonic() - begun
    assert max(timeout, 0) <= took < 5 or timeout != timeout, (timeout, took)
os.write(write_end, b'x' * 100)
print(batch.wait(60).bytes_wanted, batch.wait(0).bytes_wanted, batch.wait().bytes_wanted)
'''


@pytest.mark.skipif(not _native.io_uring_available(), reason='io_uring is not available here')
def test_a_wait_ends_after_its_timeout(disk_file):
    """Whatever the device does; the batch stays waitable."""
    done = subprocess.run([sys.executable, '-c', UNANSWERED, str(disk_file)], timeout=60,
                          capture_output=True, text=True)
    assert done.stdout == '100 100 100\n', done


@backends
@matrix
def test_waiting_bit_by_bit(disk_file, backend, direct):
    with open_reader(disk_file, backend, direct, threads=1, queue_depth=1) as reader:
        buffer = reader.allocate(8 * MIB)
        scattered = [(offset, 700) for offset in range(0, 2_900_000, 2500)]
        batch = reader.submit(0, scattered, buffer)
        waits = 1
        while (stats := batch.wait(0.0005)) is None:
            waits += 1
        assert stats.bytes_wanted == batch.wait(0).bytes_wanted == 700 * len(scattered)
        assert bytes(memoryview(buffer)[:stats.bytes_wanted]) == plain_read(disk_file, scattered)
        assert waits > 1 or direct == 'off'


def test_signals_reach_python_not_the_workers(disk_file):
    """SIGINT sent to the process ends up in the main thread whatever the workers do."""
    with Reader([disk_file]) as reader:
        buffer = reader.allocate(4 * MIB)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                reader.read(0, [(0, 100_000)], buffer)
        check(reader, disk_file, [(0, 100_000)], buffer)


@backends
def test_a_finished_batch_lets_go_of_its_buffer(disk_file, backend):
    def held():
        with open('/proc/self/status') as status:
            return next(int(line.split()[1]) for line in status if line.startswith('RssAnon'))

    with open_reader(disk_file, backend, 'off') as reader:
        before = held()
        buffer = reader.allocate(64 * MIB)
        reader.read(0, [(0, 4096)], buffer)
        assert held() - before > 60_000
        del buffer
        gc.collect()
        assert held() - before < 20_000, 'the reader still holds a buffer nobody can see'
