# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A profile's file: what is written is read, what is not right is refused, whose disk it is."""

import dataclasses
import json
import os

import pytest

from neuron_chunk_ros.errors import ProfileError
from neuron_chunk_ros.storage import profile_file
from neuron_chunk_ros.storage.device_facts import UNKNOWN, DeviceFacts, device_facts
from neuron_chunk_ros.storage.profile import PROFILE_JSON, Line, Profile
from neuron_chunk_ros.storage.profile_file import profile_path


def measured(folder, **about):
    """Return a profile that says it was measured on the storage of a folder."""
    facts = dataclasses.asdict(device_facts(folder))
    return Profile(Line(1e-5, 2.5e-7), Line(6e-6, 2.65625e-7), 256, 768, 6e-5, 'measured',
                   (1, 4, 1024), (1.03e-5, 1.1e-5, 2.8e-4),
                   ((1e-5, 1.1e-5), (1.1e-5, 1.2e-5), (2.7e-4, 2.9e-4)),
                   {**facts, 'repeats': 9, 'held_out_error': 0.025, **about})


def test_round_trip(tmp_path):
    path = tmp_path / PROFILE_JSON
    for profile in (measured(tmp_path), Profile.assumed(), Profile.simulated('agx-orin')):
        profile_file.save(profile, path)   # the second one replaces the first
        assert profile_file.load(path) == profile
    assert os.listdir(tmp_path) == [PROFILE_JSON]
    text = json.loads(path.read_text())
    assert (text['format'], text['version']) == ('neuron-chunk-storage-profile', 1)


def test_where_it_lies(tmp_path):
    (tmp_path / 'bundle').mkdir()
    assert profile_path(tmp_path / 'bundle') == tmp_path / 'bundle' / PROFILE_JSON
    (tmp_path / 'bundle' / 'bundle.json').touch()
    assert profile_path(tmp_path / 'bundle') == tmp_path / PROFILE_JSON


@pytest.mark.parametrize('change, message', [
    ({'format': 'zip'}, "format is 'zip'"),
    ({'version': 2}, 'version 2 is not one this release reads'),
    ({'version': True}, 'version True'),
    ({'extra': 1}, "'extra' is not known"),
    ({'low': None}, 'low must be an object'),
    ({'low': {'request_seconds': 1}}, "low: 'kib_seconds' is missing"),
    ({'low': {'request_seconds': '1', 'kib_seconds': 1}}, "low: request_seconds is '1'"),
    ({'high': {'request_seconds': 9, 'kib_seconds': 1}}, 'do not meet'),
    ({'batch_seconds': 1e308 * 10}, 'Infinity is not JSON'),
    ({'batch_seconds': 1e9}, 'batch_seconds is 1000000000.0'),
    ({'knee_kib': -3}, 'must be positive'),
    ({'saturation_kib': 1 << 53}, 'at most 1048576 are believed'),
    ({'saturation_kib': 1.5}, 'saturation_kib is 1.5, want a whole number'),
    ({'source': 7}, 'source is 7'),
    ({'source': 'rumoured'}, 'source is none of'),
    ({'sizes_kib': [1, 4]}, 'as many times'),
    ({'sizes_kib': [4, 1, 1024]}, 'ascending'),
    ({'sizes_kib': {}}, 'sizes_kib must be a list'),
    ({'seconds': list(range(2000))}, 'at most 1000'),
    ({'quartiles': [1, 2, 3]}, 'a pair of quartiles is 1'),
    ({'quartiles': [[2, 1], [2, 1], [2, 1]]}, 'between its quartiles'),
    ({'about': []}, 'about must be'),
    ({'about': {'device': ['a']}}, "about: 'device' is"),
    ({'about': {'device': 'x' * 2000}}, "about: 'device' is"),
])
def test_malformed(tmp_path, change, message):
    path = tmp_path / PROFILE_JSON
    profile_file.save(measured(tmp_path), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ProfileError) as caught:
        profile_file.load(path)
    assert str(caught.value).startswith(f'{path}: ') and message in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('data', [
    b'', b'[]', b'{', b'\xff{}', b'{"format": 1, "format": 2}', b'[' * 100_000, b'0' * (1 << 21),
    b'{"format": "neuron-chunk-storage-profile", "version": ' + b'9' * 5000 + b'}'])
def test_not_even_an_object(tmp_path, data):
    path = tmp_path / PROFILE_JSON
    path.write_bytes(data)
    with pytest.raises(ProfileError, match=str(path)):
        profile_file.load(path)


def test_missing_folder_pipe_and_unwritable(tmp_path):
    with pytest.raises(ProfileError, match='No such file'):
        profile_file.load(tmp_path / PROFILE_JSON)
    with pytest.raises(ProfileError, match='Is a directory'):
        profile_file.load(tmp_path)
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(ProfileError, match='pipe'):
        profile_file.load(tmp_path / 'pipe')   # and does not wait for a writer
    with pytest.raises(ProfileError, match='cannot write .*gone'):
        profile_file.save(Profile.assumed(), tmp_path / 'gone' / PROFILE_JSON)


def test_a_profile_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / PROFILE_JSON
    path.mkdir()   # can't be replaced by a file
    with pytest.raises(ProfileError, match='cannot write'):
        profile_file.save(Profile.assumed(), path)
    assert os.listdir(tmp_path) == [PROFILE_JSON]


@pytest.fixture
def bundle(tmp_path):
    (tmp_path / 'bundle').mkdir()
    return tmp_path / 'bundle'


def test_find(bundle):
    path = bundle.parent / PROFILE_JSON
    profile, note = profile_file.find(bundle)
    assert profile is None
    assert note == (f'no storage profile in {bundle.parent}, run: neuron-chunk profile --path '
                    f'{bundle}')
    mine = measured(bundle)
    profile_file.save(mine, path)
    assert profile_file.find(bundle) == (mine, '')
    assert profile_file.find(os.path.relpath(bundle)) == (mine, '')
    path.write_text('{')
    profile, note = profile_file.find(bundle)
    assert profile is None and 'unusable' in note and 'neuron-chunk profile' in note
    profile_file.save(Profile.simulated('agx-orin'), path)
    profile, note = profile_file.find(bundle)
    assert profile is None and 'simulated, not measured' in note


def test_find_refuses_another_device(bundle):
    profile_file.save(measured(bundle, device='Samsung SSD 990 PRO', uuid=UNKNOWN),
                      bundle.parent / PROFILE_JSON)
    profile, note = profile_file.find(bundle)
    assert profile is None
    assert 'is of Samsung SSD 990 PRO' in note and 'the bundle lies on' in note
    profile_file.save(measured(bundle, device='a\n\x1b[2J' + 'x' * 900, uuid=UNKNOWN),
                      bundle.parent / PROFILE_JSON)
    _, note = profile_file.find(bundle)
    assert r'is of a \x1b[2Jxxx' in note and note.isprintable() and len(note) < 1000


def test_same_storage():
    disk = DeviceFacts('ext4', '/dev/sda1', 'SSD', 'aa-bb')
    moved = dataclasses.replace(disk, mount_source='/dev/sdb1')
    assert disk.same_storage(disk) and disk.same_storage(moved), 'names change from boot to boot'
    assert not disk.same_storage(dataclasses.replace(disk, uuid='cc-dd'))
    unknown = dataclasses.replace(disk, uuid=UNKNOWN)
    assert disk.same_storage(unknown) and unknown.same_storage(disk)
    assert not unknown.same_storage(moved)
    assert not disk.same_storage(dataclasses.replace(disk, file_system='xfs'))


def test_device_facts_agree_with_the_system(tmp_path):
    facts = device_facts(tmp_path)
    assert facts == device_facts(tmp_path.parent)
    mounts = [line.split() for line in open('/proc/self/mounts')]
    assert any(facts.mount_source == m[0] and facts.file_system == m[2] for m in mounts)
    assert not facts.in_memory or facts.file_system in ('tmpfs', 'ramfs', 'rootfs')
    if os.path.ismount('/dev/shm'):
        assert device_facts('/dev/shm').in_memory
