# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Measuring on the disk the tests run on: what comes out, what is refused, what is left."""

import os
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_cases import MIB, backends, open_reader

from neuron_chunk_ros.errors import ProfileError
from neuron_chunk_ros.storage import measure as measuring
from neuron_chunk_ros.storage import profile_file
from neuron_chunk_ros.storage.device_facts import device_facts
from neuron_chunk_ros.storage.measure import LEAST_ROUNDS, SIZES_KIB, measure
from neuron_chunk_ros.storage.profile import PROFILE_JSON
from neuron_chunk_ros.storage.reader import Reader
from neuron_chunk_ros.storage.scratch_file import scratch_file

SMALL = 32 * MIB
HERE = {'allow_tmpfs': True, 'file_bytes': SMALL}   # /tmp lies in memory on some machines


def write(folder, wanted=SMALL, seconds=60.0):
    return scratch_file(folder, wanted, seconds, lambda done, total: None)


@backends
@pytest.mark.parametrize('direct', ['on', pytest.param('off', marks=pytest.mark.slow)])
def test_measured(tmp_path, disk_file, backend, direct):
    open_reader(disk_file, backend, direct).close()   # skips where the disk hasn't that
    seen = []
    profile = measure(tmp_path, backend=backend, seconds=0.0, buffered=direct == 'off',
                      progress=lambda *report: seen.append(report), **HERE)
    assert os.listdir(tmp_path) == []
    assert profile.source == 'measured' and profile.sizes_kib == SIZES_KIB
    assert profile.saturation_kib in SIZES_KIB and SIZES_KIB[0] < profile.knee_kib < SIZES_KIB[-1]
    about = profile.about
    assert (about['backend'], about['direct_io']) == (backend, int(direct == 'on'))
    assert about['repeats'] == LEAST_ROUNDS and about['file_bytes'] == SMALL
    assert about['file_system'] == device_facts(tmp_path).file_system
    assert about['date'].endswith('+00:00') and about['kernel'].startswith('Linux ')
    assert 0 <= about['held_out_error'] <= about['held_out_worst']
    # A read of 2 MiB takes longer than one of 4 KiB, even on a machine that does much else.
    assert profile.seconds(2048) > profile.seconds(4) > 0
    profile_file.save(profile, tmp_path / PROFILE_JSON)
    assert profile_file.find(tmp_path / 'no-bundle')[0] is None
    (tmp_path / 'bundle').mkdir()
    assert profile_file.find(tmp_path / 'bundle') == (profile, '')
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ['writing', 'reading']
    assert ('writing', SMALL, SMALL) in seen


def test_refused(tmp_path):
    with pytest.raises(ProfileError, match='gone: No such file'):
        measure(tmp_path / 'gone')
    (tmp_path / 'file').touch()
    with pytest.raises(ProfileError, match='file is not a folder'):
        measure(tmp_path / 'file')
    with pytest.raises(ProfileError, match='^stopped$'):
        measure(tmp_path, stopped=lambda: True, buffered=True, **HERE)
    assert os.listdir(tmp_path) == ['file']


def test_stopped_between_two_batches(tmp_path):
    asked = iter(range(30))
    with pytest.raises(ProfileError, match='stopped'):
        measure(tmp_path, stopped=lambda: next(asked) == 29, buffered=True, **HERE)
    assert os.listdir(tmp_path) == []


def test_memory_is_no_storage(memory_file):
    with pytest.raises(ProfileError, match=r'lies in memory \(tmpfs\).*--allow-tmpfs'):
        measure(memory_file.parent)
    # What has no direct I/O and isn't known to be memory must be asked for, too.
    with write(memory_file.parent) as file, pytest.raises(ProfileError, match='--buffered'):
        measuring._open(file, memory_file.parent, 'auto', buffered=False)


def test_no_room(small_disk):
    with pytest.raises(ProfileError, match='disk has 25 MB free: measuring needs 268 MB'):
        measure(small_disk, allow_tmpfs=True)
    assert os.listdir(small_disk) == []


def test_the_file_is_really_written_and_nameless(tmp_path):
    with write(tmp_path) as file:
        assert os.listdir(tmp_path) == [] and file.nbytes == SMALL
        status = os.fstat(file.descriptor)
        assert status.st_size == SMALL and status.st_nlink == 0
        assert status.st_blocks * 512 >= SMALL, 'holes would be read without the device'
        blocks = np.frombuffer(os.pread(file.descriptor, SMALL, 0), np.uint64)[::512]
        assert len(np.unique(blocks)) == len(blocks), 'the same block twice'
        sample = os.pread(file.descriptor, MIB, 7 * MIB)
        assert len(zlib.compress(sample)) > 0.99 * MIB
    with pytest.raises(OSError):
        os.fstat(file.descriptor)


def test_a_slow_disk_gets_a_smaller_file(tmp_path):
    with write(tmp_path, 512 * MIB, seconds=0.0) as file:
        assert 128 * MIB <= file.nbytes < 512 * MIB


def test_a_file_system_without_nameless_files(tmp_path, monkeypatch):
    opened = os.open

    def refuse(path, flags, *rest, **others):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, 'Operation not supported', str(path))
        return opened(path, flags, *rest, **others)

    monkeypatch.setattr(os, 'open', refuse)
    with write(tmp_path) as file:
        assert os.listdir(tmp_path) == []
        with Reader([file.path]) as reader:
            assert reader.read(0, [(SMALL - 5, 5)], reader.allocate(MIB)).bytes_wanted == 5


@pytest.fixture(scope='module')
def meter(tmp_path_factory):
    with write(tmp_path_factory.mktemp('meter')) as file, Reader([file.path]) as reader:
        yield measuring._Meter(reader, file, lambda: False), reader


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 200_000), min_size=1, max_size=60), data=st.data())
def test_chunks_are_inside_apart_and_not_merged(meter, lengths, data):
    meter, reader = meter
    gaps = data.draw(st.lists(st.integers(1, 50_000), min_size=len(lengths),
                              max_size=len(lengths)))
    extents = meter._placed(np.array(lengths), np.array(gaps))
    ends = extents.sum(axis=1)
    assert extents[0, 0] >= 0 and ends[-1] <= SMALL
    assert (extents[:, 1] == lengths).all() and (extents[:, 0] % meter.block == 0).all()
    assert (extents[1:, 0] - ends[:-1] >= np.minimum(gaps[1:], meter.block)).all()
    stats = reader.read(0, extents, meter._buffer)
    assert stats.requests == len(lengths), 'neighbours were read as one'


def test_mixes_are_what_selections_look_like(meter):
    meter, _ = meter
    for _ in range(50):
        lengths, gaps = measuring._mix(meter, 4096)
        assert len(lengths) == len(gaps) and (lengths % 4096 == 0).all() and lengths.min() > 0
        assert len(np.unique(lengths)) > 1
        meter.read(lengths, gaps)   # fits file and buffer
