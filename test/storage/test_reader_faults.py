# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a read: the file, the device, the caller, what the system refuses."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from reader_cases import BACKENDS, MIB, SHM, SIZE, backends, check, matrix, open_reader

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
        refused('too small', [(0, 5)], at=2**63 - 2**20)
        refused('multiple', [(0, 5)], at=-reader.block_size)
        refused('file 1', [(0, 5)], file=1)
        refused('file -1', [(0, 5)], file=-1)
        refused('shape', [1, 2, 3])
        refused('shape', [(1.0, 2.0)])
        if reader.direct:
            refused('multiple', [(0, 5)], at=1)
        for call in (lambda: reader.submit(0, [(0, 5)], None),
                     lambda: reader.read(0, [(0, 5)], None)):
            with pytest.raises(TypeError):
                call()
        # None of it did harm.
        check(reader, disk_file, [(SIZE - 5, 5)], buffer)


def test_bad_options(disk_file):
    for options in [{'backend': 'aio'}, {'direct': 'yes'}, {'threads': 0}, {'threads': 10**6},
                    {'queue_depth': 0}, {'queue_depth': 10**6}]:
        with pytest.raises(ReadError):
            Reader([disk_file], **options)
    for most in (-2**63, 0, 1, 511, 2**30 + 1, 2**63 - 1):
        with pytest.raises(ValueError, match='max_request must be'):
            _native.Reader([str(disk_file)], max_request=most)


def test_methods_of_nothing():
    """None in a reader's place, as some wrapper may pass it on."""
    for made in (_native.Reader, _native.Batch, _native.Buffer, _native.ReadStats):
        for name, method in vars(made).items():
            getter = getattr(method, 'fget', None)
            if getter or name in ('close', 'wait', 'wait_bytes', 'capacity', 'read', 'submit'):
                with pytest.raises(TypeError):
                    (getter or method)(None)


@pytest.mark.parametrize('size', [2**43, 2**62, 2**63 - 1])
@backends
def test_files_of_any_size(backend, size, tmp_path):
    """Sums don't overflow, and nothing is made for what can't be read anyway."""
    path = None
    for folder in (tmp_path, SHM):
        try:
            with tempfile.NamedTemporaryFile(dir=folder, suffix='.hollow', delete=False) as file:
                path = Path(file.name)
                file.truncate(size)
            break
        except OSError:
            path and path.unlink(missing_ok=True)
    else:
        pytest.skip(f'no file system here has files of {size} bytes')
    try:
        with Reader([path], backend) as reader:
            buffer = reader.allocate(MIB)
            assert reader.capacity(0, [(0, 2**40)]) == 2**40
            for extents in ([(0, size)], [(0, size)] * 5, [(0, size // 2)] * 9, [(0, 2**43)],
                            [(size - 2**40, 2**40)], [(0, 2**42)] * 4000):
                with pytest.raises(ReadError, match='too small|more than can be read'):
                    reader.submit(0, extents, buffer)
            if size < 2**62:
                check(reader, path, [(size - 9000, 9000), (5, 7)], buffer)
            else:
                for end in (size, size - 2**20):
                    try:
                        reader.read(0, [(end - 9000, 9000)], buffer)
                    except ReadError as error:
                        assert 'more than can be read' in str(error)
            with pytest.raises(ReadError, match='beyond'):
                reader.capacity(0, [(size, 1)])
    finally:
        path.unlink()


@backends
def test_any_name_of_a_file(tmp_path, backend):
    """Also one that is no text; none that the system would cut short."""
    name = os.fsencode(tmp_path) + b'/row\xff.bin'
    Path(os.fsdecode(name)).write_bytes(b'flash' * 2000)
    for path in (name, os.fsdecode(name), Path(os.fsdecode(name))):
        with Reader([path], backend) as reader:
            check(reader, name, [(3, 4000)])
            for misuse in ([(-1, 5)], [(0, 10_001)]):
                with pytest.raises(ReadError) as caught:
                    reader.capacity(0, misuse)
                assert os.fsencode(str(caught.value)).startswith(name)
    Path(os.fsdecode(name)).unlink()
    with pytest.raises(ReadError, match='No such file') as caught:
        Reader([name], backend)
    assert os.fsencode(caught.value.path) == name
    whole = tmp_path / 'whole.bin'
    whole.write_bytes(b'flash')
    for cut in (f'{whole}\0.bin', f'{whole}\0', f'{whole}\ud800'):
        with pytest.raises(ReadError, match='no file can have the name'):
            Reader([cut], backend)
    for wrong in (None, 5, ['x']):
        with pytest.raises(TypeError):
            Reader([wrong], backend)


def run(program, *arguments):
    """Run a program in a process of its own; a hang or a crash fails."""
    done = subprocess.run([sys.executable, '-c', program, *map(str, arguments)], timeout=60,
                          capture_output=True, text=True, cwd=Path(__file__).parent)
    if done.stdout.startswith('skip: '):
        pytest.skip(done.stdout[6:].strip())
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


# As containers refuse it. The numbers 425 (io_uring_setup) and 426 (io_uring_enter) are the same
# everywhere.
REFUSED = """
import sys
import refused_calls
call, errno, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
from neuron_chunk_ros import _native
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.reader import Reader
why = refused_calls.refuse([call], errno)
if why:
    print('skip:', why)
    sys.exit()
with Reader([path]) as reader:
    print(reader.backend, reader.read(0, [(5, 7)], reader.allocate(9000)).bytes_wanted)
    print(*reader.notes)
try:
    Reader([path], 'io_uring')
except ReadError as error:
    print(error)
print(_native.io_uring_available())
"""


@pytest.mark.parametrize('number', [1, 12, 38])  # EPERM, ENOMEM, ENOSYS
@pytest.mark.parametrize('call', [425, 426])
@pytest.mark.skipif(not _native.io_uring_available(), reason='io_uring is not available here')
def test_io_uring_refused_by_the_container(disk_file, call, number):
    lines = run(REFUSED, call, number, disk_file).splitlines()
    assert lines[0] == 'threads 7', lines
    assert 'io_uring' in lines[1] and os.strerror(number) in lines[1], lines
    assert 'threads' in lines[2] and os.strerror(number) in lines[2], lines
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


FORKED = """
import os, sys
import numpy as np
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.reader import Reader
path, backend = sys.argv[1:]
want = np.fromfile(path, np.uint8)
reader = Reader([path], backend)
buffer = reader.allocate(8 << 20)
batch = reader.submit(0, [[0, 2 << 20]], buffer)
for turn in range(3):
    child = os.fork()
    if not child:
        for use in (lambda: reader.read(0, [[0, 5]], buffer), lambda: batch.wait(),
                    lambda: reader.submit(0, [[0, 5]], buffer), lambda: batch.ready,
                    lambda: batch.wait_bytes(5, 0.0), lambda: reader.capacity(0, [[0, 5]])):
            try:
                use()
                os._exit(1)
            except ReadError as error:
                if 'after fork' not in str(error):
                    os._exit(2)
        if np.frombuffer(buffer, np.uint8)[-9:].any():
            os._exit(3)
        del batch
        if turn:
            reader.close()
        del reader, buffer, use
        with Reader([path], backend) as own:
            memory = own.allocate(8 << 20)
            own.read(0, [[7, 1000]], memory)
            os._exit(0 if (np.frombuffer(memory, np.uint8)[:1000] == want[7:1007]).all() else 4)
    code = os.waitpid(child, 0)[1]
    assert code == 0, code
    batch.wait()
    assert (np.frombuffer(buffer, np.uint8)[:2 << 20] == want[:2 << 20]).all()
    batch = reader.submit(0, [[0, 2 << 20]], buffer)
batch.wait()
"""


@backends
def test_a_forked_child_is_harmless(disk_file, backend):
    run(FORKED, disk_file, backend)


REFUSED_LATER = """
import errno, sys
import refused_calls
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.reader import Reader
path = sys.argv[1]
with Reader([path], 'io_uring') as reader:
    buffer = reader.allocate(8 << 20)
    reader.read(0, [[0, 100]], buffer)
    why = refused_calls.refuse([refused_calls.IO_URING_ENTER], errno.EPERM)
    if why:
        print('skip:', why)
        sys.exit()
    for _ in range(3):
        try:
            reader.read(0, [[0, 2 << 20]], buffer)
            sys.exit('read all the same')
        except ReadError as error:
            assert error.errno == errno.EPERM, error
"""


@pytest.mark.skipif(not _native.io_uring_available(), reason='io_uring can not be used here')
def test_a_ring_that_is_refused_for_good_ends_its_reads(disk_file):
    run(REFUSED_LATER, disk_file)


REFUSED_AMID = """
import errno, os, sys, threading
import numpy as np
import refused_calls
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.reader import Reader
path = sys.argv[1]
reader = Reader([path], 'io_uring', 'off')
number = [int(n) for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')
          and os.readlink(f'/proc/self/fd/{n}') == path][0]
saved, (read_end, write_end) = os.dup(number), os.pipe()
buffer = reader.allocate(1 << 20)
os.dup2(read_end, number)  # a device that does not answer
taken = [reader.submit(0, [[0, 100]], buffer, at) for at in (0, 4096)]
assert taken[0].wait(0.3) is None  # by now the kernel has them
os.dup2(saved, number)
why = refused_calls.refuse([refused_calls.IO_URING_ENTER], errno.EPERM)
if why:
    print('skip:', why)
    sys.exit()
for at in (8192, 12288, 8192):
    try:
        reader.read(0, [[0, 100]], buffer, at)
        sys.exit('read all the same')
    except ReadError as error:
        assert error.errno == errno.EPERM, error
# What the kernel took before still fills its memory: it has not ended, though all others have.
assert not any(batch.ready for batch in taken)
os.write(write_end, b'x' * 200)
for batch, at in zip(taken, (0, 4096), strict=True):
    assert batch.wait(30).bytes_wanted == 100
    assert (np.frombuffer(buffer, np.uint8)[at:at + 100] == ord('x')).all()
reader.close()
"""


@pytest.mark.skipif(not _native.io_uring_available(), reason='io_uring can not be used here')
def test_what_a_ring_took_before_it_was_refused_still_arrives(disk_file):
    run(REFUSED_AMID, disk_file)


NO_THREAD = """
import errno, sys
import refused_calls
from neuron_chunk_ros.errors import ReadError
from neuron_chunk_ros.storage.reader import Reader
path, backend = sys.argv[1:]
why = '' if refused_calls.NEW_THREAD else 'the number of clone is not known here'
why = why or refused_calls.refuse(refused_calls.NEW_THREAD, errno.EAGAIN)
if why:
    print('skip:', why)
    sys.exit()
try:
    Reader([path], backend)
    sys.exit('opened all the same')
except ReadError as error:
    assert 'thread' in str(error) and error.errno == errno.EAGAIN, error
"""


@pytest.mark.parametrize('backend', ['auto', *BACKENDS])
def test_where_no_thread_can_be_started(disk_file, backend):
    run(NO_THREAD, disk_file, backend)
