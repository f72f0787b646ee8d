# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Files replaced whole, folders exchanged, scratch folders: what is there before and after."""

import errno
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import types

import pytest

from neuron_chunk_ros.errors import BundleError, ModelError
from neuron_chunk_ros.storage import atomic
from neuron_chunk_ros.storage.atomic import AtomicFolder, ScratchFolder, replace_file
from neuron_chunk_ros.storage.disk_errors import UnsyncedError, failure


def test_a_file_is_replaced_and_keeps_its_permissions(tmp_path):
    path = tmp_path / 'x.json'
    replace_file(path, [b'one'])
    path.chmod(0o640)
    replace_file(path, [b'two', b' parts'])
    assert path.read_bytes() == b'two parts' and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ['x.json']


def test_a_link_stays_one(tmp_path):
    (tmp_path / 'far').mkdir()
    (tmp_path / 'x').symlink_to(tmp_path / 'far' / 'y')
    for content in (b'one', b'two'):
        replace_file(tmp_path / 'x', [content])
        assert (tmp_path / 'x').is_symlink() and (tmp_path / 'far' / 'y').read_bytes() == content


def test_a_pipe_is_written_into(tmp_path):
    path, read = tmp_path / 'pipe', []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    replace_file(path, [b'some', b' words'])
    reader.join()
    assert read == [b'some words'] and stat.S_ISFIFO(path.stat().st_mode)
    replace_file(os.devnull, [b'nothing'])
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_full_disk_leaves_the_old_file(small_disk):
    path = small_disk / 'x'
    replace_file(path, [b'old'])
    with pytest.raises(OSError, match='No space left') as error:
        replace_file(path, (bytes(1 << 20) for _ in range(32)))
    assert error.value.filename == str(path)
    assert path.read_bytes() == b'old' and os.listdir(small_disk) == ['x']


def test_what_raises_while_it_is_written_leaves_the_old_file(tmp_path):
    def chunks():
        yield b'half'
        raise KeyboardInterrupt

    path = tmp_path / 'x'
    replace_file(path, [b'old'])
    with pytest.raises(KeyboardInterrupt):
        replace_file(path, chunks())
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['x']


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    names = ['.x.partial-0123abcd', '.y.partial-0123abcd', '.x.partial-mine', 'x.partial-0123abcd',
             '.x+partial-0123abcd']
    for name in names:
        (tmp_path / name).write_text('half')
    (tmp_path / '.x.partial-89abcdef').mkdir()
    (tmp_path / '.x.partial-89abcdef' / 'inner').write_text('half')
    replace_file(tmp_path / 'x', [b'whole'])
    assert sorted(os.listdir(tmp_path)) == sorted([*names[1:], 'x'])


HOLDER = """
import sys, time
from neuron_chunk_ros.storage.atomic import replace_file
def chunks():
    yield b'half'
    print('ready', flush=True)
    time.sleep(60)
replace_file(sys.argv[1], chunks())
"""


def test_a_living_writers_file_is_left_alone(tmp_path):
    path = tmp_path / 'x'
    holder = subprocess.Popen([sys.executable, '-c', HOLDER, str(path)], stdout=subprocess.PIPE,
                              text=True)
    try:
        assert holder.stdout.readline() == 'ready\n'
        replace_file(path, [b'ours'])
        assert path.read_bytes() == b'ours' and len(os.listdir(tmp_path)) == 2
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert len(os.listdir(tmp_path)) == 2
    replace_file(path, [b'ours again'])
    assert os.listdir(tmp_path) == ['x']


def test_many_at_once_leave_one_that_is_whole(tmp_path):
    path = tmp_path / 'x'
    errors = []

    def write(letter):
        try:
            for _ in range(20):
                replace_file(path, [letter * 5000, letter * 5000])
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b'a', b'b', b'c')]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and path.read_bytes() in (b'a' * 10000, b'b' * 10000, b'c' * 10000)
    assert os.listdir(tmp_path) == ['x']


@pytest.mark.parametrize('has_exchange', [True, False])
def test_a_folder_is_exchanged(tmp_path, monkeypatch, has_exchange):
    if not has_exchange:  # as on file systems, and in C libraries, that lack it
        monkeypatch.setattr(atomic.ctypes, 'CDLL', lambda *_, **__: types.SimpleNamespace())
    for content in ('one', 'two'):
        with AtomicFolder(tmp_path / 'm', error=ModelError, replace=True) as made:
            (made.folder / content).write_text(content)
        assert os.listdir(tmp_path) == ['m'] and os.listdir(tmp_path / 'm') == [content]
    with pytest.raises(ModelError, match='m; it is as it was: make room'):
        with AtomicFolder(tmp_path / 'm', error=ModelError, replace=True) as made:
            raise OSError(errno.ENOSPC, 'full')
    assert os.listdir(tmp_path) == ['m'] and os.listdir(tmp_path / 'm') == ['two']


def test_only_a_folder_is_exchanged(tmp_path):
    (tmp_path / 'm').write_text('a file')
    with pytest.raises(BundleError, match='already exists'):
        with AtomicFolder(tmp_path / 'm', replace=True):
            pass


def test_a_scratch_folder_is_gone_whatever_happens(tmp_path):
    with ScratchFolder(tmp_path / 'b') as scratch:
        with AtomicFolder(tmp_path / 'b') as made:  # leaves a living one of the same name alone
            (scratch.folder / 'x').write_text('x')
            (made.folder / 'y').write_text('y')
    assert os.listdir(tmp_path) == ['b']
    with pytest.raises(RuntimeError):
        with ScratchFolder(tmp_path / 'c'):
            raise RuntimeError
    assert os.listdir(tmp_path) == ['b']


@pytest.mark.parametrize('error, words', [
    (RuntimeError('I/O error: No space left on device (os error 28)'), 'disk full while writing'),
    (sqlite3.OperationalError('database or disk is full'), 'disk full while writing'),
    (sqlite3.OperationalError('disk I/O error'), 'disk I/O error, the drive failed')])
def test_errors_that_libraries_wrap_are_the_disks(tmp_path, error, words):
    with pytest.raises(BundleError, match=words) as told:
        with AtomicFolder(tmp_path / 'b'):
            raise error
    assert str(tmp_path / 'b') in str(told.value) and 'nothing was kept' in str(told.value)
    assert os.listdir(tmp_path) == []


def test_what_was_left_beside_a_target_that_is_there_is_removed(tmp_path):
    for name in ('b', '.b.partial-0123abcd'):
        (tmp_path / name).mkdir()
    with pytest.raises(BundleError, match='already exists'):
        atomic.check_target(tmp_path / 'b', BundleError)
    assert os.listdir(tmp_path) == ['b']


def test_what_failed_in_a_scratch_folder_is_gone(tmp_path):
    with pytest.raises(BundleError, match=f'inner is damaged; of {tmp_path}/b nothing was kept'):
        with ScratchFolder(tmp_path / 'b') as scratch:
            raise BundleError(f'{scratch.folder}/inner is damaged')
    with pytest.raises(BundleError, match='elsewhere is damaged$'):
        with ScratchFolder(tmp_path / 'b'):
            raise BundleError('elsewhere is damaged')


@pytest.mark.parametrize('error, line', [
    (OSError(errno.ENOSPC, 'No space left on device'),
     'disk full while writing /d/b; nothing was kept: make room and begin again'),
    (OSError(errno.EIO, 'Input/output error', '/d/b/x'),
     'cannot write /d/b: Input/output error, the drive failed, dmesg says how (/d/b/x); nothing '
     'was kept'),
    (OSError('odd'), 'cannot write /d/b: odd; nothing was kept'),
    (UnsyncedError(errno.EIO, 'Input/output error', '/d/b'),
     '/d/b is written, but may be gone after a power failure: Input/output error, the drive '
     'failed, dmesg says how')])
def test_lines_name_the_target_and_the_cure(error, line):
    assert failure('/d/b', error, 'nothing was kept') == line


def test_files_in_folders_inside_are_flushed_too(tmp_path, monkeypatch):
    flushed, sync = [], atomic.sync
    monkeypatch.setattr(atomic, 'sync', lambda path: flushed.append(path.name) or sync(path))
    with AtomicFolder(tmp_path / 'b') as made:
        (made.folder / 'inner').mkdir()
        (made.folder / 'inner' / 'x').write_text('x')
    assert {'x', 'inner'} < set(flushed)
