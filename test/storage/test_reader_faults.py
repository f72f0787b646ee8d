# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a read: the file, the device, the caller, what the system refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from reader_cases import MIB, SIZE, backends, check, matrix, open_reader

from neuron_chunk_ros import _native
from neuron_chunk_ros.errors import NeuronChunkError, ReadError
from neuron_chunk_ros.storage.reader import Reader


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
