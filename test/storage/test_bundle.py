# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Opening bundles nobody vouches for: every malformed one ends in one clear line."""

import copy
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.storage.bundle import Bundle, GroupPlan, Member
from neuron_chunk_ros.storage.verify import verify
from neuron_chunk_ros.storage.writer import BundleWriter, ResidentTensor

FLASH = 'flash-00001-of-00001.safetensors'


@pytest.fixture(scope='module')
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pristine')
    plans = [
        GroupPlan('layers.0.qkv', 6, (Member('m.0.q', 4), Member('m.0.k', 3))),
        GroupPlan('layers.0.down', 5, (Member('m.0.d', 2),)),
        GroupPlan('layers.1.qkv', 6, (Member('m.1.q', 4), Member('m.1.k', 3))),
    ]
    config = folder / 'config.json'
    config.write_text('{}')
    rng = np.random.default_rng(0)
    with BundleWriter(folder / 'bundle', 'family', 'bfloat16', plans, {}) as writer:
        writer.copy_file(config)
        for plan in plans:
            writer.write_group(plan.name, rng.integers(
                0, 1 << 16, (plan.rows, plan.columns), dtype=np.uint16))
        writer.write_resident([ResidentTensor('norm', 'F32', (3,), np.ones(3, np.float32))])
    return folder / 'bundle'


@pytest.fixture
def bundle(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / 'bundle'))


def edit(bundle, change):
    path = bundle / 'bundle.json'
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def fault(bundle):
    """Open a broken bundle; return its error, which is one line that names a file in it."""
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    text = str(caught.value)
    assert '\n' not in text and text.isprintable() and str(bundle) in text and len(text) < 400
    return text


def put(*path_and_value):
    *path, value = path_and_value

    def change(manifest):
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value
    return change


def drop(*path):
    def change(manifest):
        for key in path[:-1]:
            manifest = manifest[key]
        del manifest[path[-1]]
    return change


def alias(manifest):
    """Let two groups claim the same bytes."""
    first, third = manifest['groups'][0], manifest['groups'][2]
    for key in ('tensor', 'offset', 'sha256'):
        third[key] = first[key]


def grow(manifest):
    """Let a group claim bytes of the next one: consistent in itself, not with the file."""
    manifest['groups'][0]['rows'] += 1


def shift(manifest):
    manifest['groups'][0]['offset'] += 4096


def misname(manifest):
    manifest['groups'][1]['name'] = manifest['groups'][0]['name']


def share_member(manifest):
    manifest['groups'][2]['members'] = manifest['groups'][0]['members']


def widen(manifest):
    manifest['groups'][0]['members'][0]['columns'] += 1


def widen_row(manifest):
    manifest['groups'][0]['members'][0]['columns'] += 1
    manifest['groups'][0]['columns'] += 1


GROUP = ('groups', 0)
MALFORMED = {
    'format': (put('format', 'zip'), 'format'),
    'version of tomorrow': (put('version', 6), 'version 6'),
    'version is true': (put('version', True), 'version'),
    'family with a slash': (put('family', '../x'), 'family'),
    'family is a number': (put('family', 3), 'family'),
    'dtype unknown': (put('dtype', 'int4'), 'dtype'),
    'dtype is a list': (put('dtype', []), 'dtype'),
    'dtype of the bundle differs': (put('dtype', 'float16'), 'the groups are bfloat16'),
    'key missing': (drop('calibration'), "'calibration' is missing"),
    'key extra': (put('code', 'import os'), "'code' is not known"),
    'calibration is a list': (put('calibration', []), 'calibration'),
    'provenance is text': (put('provenance', 'me'), 'provenance'),
    'files without config': (put('files', {}), 'config.json'),
    'files is a list': (put('files', ['config.json']), 'config.json'),
    'file that is not there': (put('files', 'gone.json', '0' * 64), 'gone.json is missing'),
    'file outside': (put('files', '../config.json', '0' * 64), 'plain file name'),
    'file absolute': (put('files', '/etc/passwd', '0' * 64), 'plain file name'),
    'file checksum short': (put('files', 'config.json', 'abc'), 'sha256'),
    'resident is text': (put('resident', 'x'), 'resident'),
    'resident outside': (put('resident', 'file', '../r.safetensors'), 'plain file name'),
    'resident hidden': (put('resident', 'file', '.r'), 'plain file name'),
    'resident with NUL': (put('resident', 'file', 'r\0'), 'plain file name'),
    'resident with newline': (put('resident', 'file', 'r\n'), 'plain file name'),
    'resident size': (put('resident', 'bytes', 7), 'are recorded'),
    'resident size huge': (put('resident', 'bytes', 1 << 200), 'whole number'),
    'groups empty': (put('groups', []), 'groups'),
    'groups is an object': (put('groups', {}), 'groups'),
    'group is null': (put(*GROUP, None), 'groups[0]'),
    'group key missing': (drop(*GROUP, 'rows'), "'rows' is missing"),
    'group key extra': (put(*GROUP, 'x', 1), "'x' is not known"),
    'group named with a slash': (put(*GROUP, 'name', '../x'), 'name'),
    'group named twice': (misname, 'appears twice'),
    'group file outside': (put(*GROUP, 'file', '../flash'), 'plain file name'),
    'group file in a folder': (put(*GROUP, 'file', 'a/flash'), 'plain file name'),
    'group file dots': (put(*GROUP, 'file', '..'), 'plain file name'),
    'group file is a number': (put(*GROUP, 'file', 1), 'plain file name'),
    'group file gone': (put(*GROUP, 'file', 'gone'), 'gone is missing'),
    'group file is the config': (put(*GROUP, 'file', 'config.json'), 'not a flash file'),
    'group tensor gone': (put(*GROUP, 'tensor', 'gone'), 'no tensor gone'),
    'group tensor is padding': (put(*GROUP, 'tensor', '__pad.1'), 'it lies at'),
    'offset negative': (put(*GROUP, 'offset', -4096), 'offset'),
    'offset unaligned': (put(*GROUP, 'offset', 4097), 'multiple of 4096'),
    'offset beyond the file': (put(*GROUP, 'offset', 1 << 40), 'it lies at'),
    'offset huge': (put(*GROUP, 'offset', 1 << 64), 'whole number'),
    'offset fractional': (put(*GROUP, 'offset', 4096.0), 'whole number'),
    'offset is true': (put(*GROUP, 'offset', True), 'whole number'),
    'offset of another': (shift, 'it lies at'),
    'rows zero': (put(*GROUP, 'rows', 0), 'rows'),
    'rows negative': (put(*GROUP, 'rows', -6), 'rows'),
    'rows too many': (grow, 'want BF16 [7, 7]'),
    'rows huge': (put(*GROUP, 'rows', 10 ** 400), 'rows'),
    'columns of members': (widen, 'do not sum'),
    'columns of members below zero': (put(*GROUP, 'members', 0, 'columns', -4), 'whole number'),
    'row bytes': (widen_row, 'row_bytes 14'),
    'row bytes zero': (put(*GROUP, 'row_bytes', 0), 'row_bytes'),
    'dtype of a group': (put(*GROUP, 'dtype', 'float16'), 'dtype'),
    'members empty': (put(*GROUP, 'members', []), 'members'),
    'member extra key': (put(*GROUP, 'members', 0, 'x', 1), 'not known'),
    'member in two groups': (share_member, 'appears twice'),
    'scale': (put(*GROUP, 'scale', {}), 'scale'),
    'permutation without orders': (put(*GROUP, 'permutation', {}), 'has no orders'),
    'checksum not text': (put(*GROUP, 'sha256', None), 'sha256'),
    'checksum upper case': (put(*GROUP, 'sha256', 'A' * 64), 'sha256'),
    'groups overlap': (alias, 'overlaps'),
    'group dropped': (drop('groups', 1), 'belongs to no group'),
    'group file is the resident one': (put(*GROUP, 'file', 'resident.safetensors'),
                                       'not a flash file'),
}


def test_pristine_opens(bundle):
    opened = Bundle.open(bundle)
    assert list(opened.groups) == ['layers.0.qkv', 'layers.0.down', 'layers.1.qkv']
    assert opened.flash_files == [bundle / FLASH] and opened.resident_bytes == 12
    assert opened.flash_bytes == 2 * (42 + 10 + 42)
    for group in opened.groups.values():
        assert group.offset % 4096 == 0 and opened.file_index(group) == 0


@pytest.mark.parametrize('case', MALFORMED)
def test_malformed_manifest(bundle, case):
    change, words = MALFORMED[case]
    edit(bundle, change)
    assert words in fault(bundle)


@pytest.mark.parametrize('text, words', [
    ('', ''), ('[]', 'not a JSON object'), ('{', ''), ('{"format": NaN}', 'NaN'),
    ('{"format": Infinity}', 'Infinity'), ('{"a": 1, "a": 2}', 'appears twice'),
    ('[' * 100_000, ''), ('{"a":' * 100_000, ''), ('{"a": ' + '9' * 10_000 + '}', ''),
    ('\ufeff{}', ''), ('{"\\ud800": 1}', 'format'),
])
def test_malformed_json(bundle, text, words):
    (bundle / 'bundle.json').write_text(text)
    assert words in fault(bundle)


def test_manifest_not_utf8(bundle):
    (bundle / 'bundle.json').write_bytes(b'{"format": "\xff"}')
    assert 'UTF-8' in fault(bundle)


def test_manifest_missing(bundle):
    (bundle / 'bundle.json').unlink()
    assert 'neuron-chunk convert' in fault(bundle)


def test_folder_missing(tmp_path):
    assert 'no such bundle' in fault(tmp_path / 'gone')


def rewrite_header(path, change):
    data = path.read_bytes()
    length, = struct.unpack('<Q', data[:8])
    header = json.loads(data[8:8 + length])
    change(header)
    text = json.dumps(header).encode().ljust(length)
    assert len(text) == length
    path.write_bytes(data[:8] + text + data[8 + length:])


def entry(name, key, value):
    return lambda header: header[name].__setitem__(key, value)


HEADERS = {
    'dtype unknown': (entry('layers.0.qkv', 'dtype', 'Q4'), 'unknown dtype'),
    'dtype wrong': (entry('layers.0.qkv', 'dtype', 'F16'), 'want BF16'),
    'shape swapped': (entry('layers.0.qkv', 'shape', [7, 6]), 'want BF16 [6, 7]'),
    'shape too large': (entry('layers.0.qkv', 'shape', [1 << 50, 1 << 50]), 'its shape needs'),
    'shape negative': (entry('layers.0.qkv', 'shape', [-6, -7]), 'whole number'),
    'shape fractional': (entry('layers.0.qkv', 'shape', [6.0, 7]), 'whole number'),
    'offsets swapped': (entry('layers.0.qkv', 'data_offsets', [84, 0]), 'its shape needs'),
    'offsets negative': (entry('layers.0.qkv', 'data_offsets', [-84, 0]), 'whole number'),
    'offsets huge': (entry('layers.0.qkv', 'data_offsets', [1 << 63, 1 << 63]), 'whole number'),
    'offsets overlap': (entry('layers.0.down', 'data_offsets', [0, 20]), 'overlaps'),
    'hole': (lambda h: h.pop('__pad.1'), 'hole'),
    'entry extra key': (entry('layers.0.qkv', 'x', 1), 'want exactly'),
    'entry is a list': (lambda h: h.__setitem__('layers.0.qkv', []), 'want exactly'),
    'metadata not text': (lambda h: h.__setitem__('__metadata__', {'a': 1}), '__metadata__'),
}


@pytest.mark.parametrize('case', HEADERS)
def test_malformed_header(bundle, case):
    change, words = HEADERS[case]
    rewrite_header(bundle / FLASH, change)
    text = fault(bundle)
    assert words in text and FLASH in text


@pytest.mark.parametrize('length, words', [
    (1 << 63, 'over the limit'), ((1 << 64) - 1, 'over the limit'), (100_000_001, 'limit'),
    (90_000_000, 'truncated'), (0, 'not a JSON object'), (5, 'bad header')])
def test_header_length(bundle, length, words):
    path = bundle / FLASH
    path.write_bytes(struct.pack('<Q', length) + path.read_bytes()[8:])
    assert words in fault(bundle)


@pytest.mark.parametrize('keep', [0, 7, 8, 100, 4096, 4097, -1])
@pytest.mark.parametrize('name', [FLASH, 'resident.safetensors'])
def test_truncated_file(bundle, name, keep):
    path = bundle / name
    path.write_bytes(path.read_bytes()[:keep])
    assert name in fault(bundle)


def test_longer_file(bundle):
    with open(bundle / FLASH, 'ab') as file:
        file.write(b'x')
    assert 'after the last tensor' in fault(bundle)


@pytest.mark.parametrize('name', ['bundle.json', 'config.json', FLASH, 'resident.safetensors'])
def test_link_out_of_the_bundle(bundle, tmp_path, name):
    shutil.move(bundle / name, tmp_path / name)
    (bundle / name).symlink_to(tmp_path / name)
    assert 'leaves the bundle' in fault(bundle)


def test_link_in_a_loop(bundle):
    (bundle / FLASH).unlink()
    (bundle / FLASH).symlink_to(FLASH)
    assert 'missing or unreadable' in fault(bundle)


def test_link_to_the_bundle_is_fine(bundle, tmp_path):
    (tmp_path / 'link').symlink_to(bundle)
    assert len(Bundle.open(tmp_path / 'link').groups) == 3


@pytest.mark.parametrize('name', ['bundle.json', FLASH])
def test_fifo_does_not_hang(bundle, name):
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    assert 'not a regular file' in fault(bundle)


def test_extents(bundle):
    group = Bundle.open(bundle).groups['layers.0.qkv']
    assert group.extents(np.array([[0, 2], [5, 1]], np.int32)).tolist() == [
        [group.offset, 28], [group.offset + 70, 14]]
    assert group.extents(np.empty((0, 2))).shape == (0, 2)
    for bad in ([[-1, 1]], [[0, 7]], [[5, 2]], [[0, -1]], [[(1 << 62), 1 << 62]]):
        with pytest.raises(ValueError):
            group.extents(np.array(bad))


def test_verify_names_each_damaged_part(bundle):
    opened = Bundle.open(bundle)
    seen = []
    assert verify(opened, lambda done, total: seen.append((done, total))) == []
    assert seen[-1][0] == seen[-1][1] and seen == sorted(seen)
    damaged = opened.groups['layers.0.down']
    with open(bundle / FLASH, 'r+b') as file:
        file.seek(damaged.offset + damaged.nbytes - 1)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([last ^ 1]))
    (bundle / 'config.json').write_text('[]')
    problems = verify(opened)
    assert len(problems) == 2
    assert 'layers.0.down' in problems[0] and 'config.json' in problems[1]
    (bundle / FLASH).unlink()
    assert len(verify(opened)) == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats()
    | st.text(max_size=8) | st.sampled_from(['../x', 'bfloat16', FLASH, 'config.json']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                                                                max_size=3), max_leaves=5)


def opens_or_refuses(folder):
    try:
        opened = Bundle.open(folder)
    except BundleError:
        return
    for group in opened.groups.values():
        size = os.stat(opened.path / group.file).st_size
        assert group.offset >= 0 and group.offset + group.nbytes <= size
    assert isinstance(verify(opened), list)


@settings(max_examples=300, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere(bundle, pristine, data):
    manifest = json.loads((pristine / 'bundle.json').read_text())
    target = copy.deepcopy(manifest)
    place = target
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict)
                                        else range(len(place))))
        if place[key] and isinstance(place[key], (dict, list)) and data.draw(st.booleans()):
            place = place[key]
            continue
        if data.draw(st.booleans()):
            place[key] = data.draw(JSON)
        else:
            del place[key]
        break
    (bundle / 'bundle.json').write_text(json.dumps(target))
    opens_or_refuses(bundle)


@settings(max_examples=300, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(['bundle.json', FLASH, 'resident.safetensors']), data=st.data())
def test_any_bytes_changed(bundle, pristine, name, data):
    content = bytearray((pristine / name).read_bytes())
    reach = min(len(content), 2000)  # length and header: the data may be anything
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, reach - 1))
        new = data.draw(st.binary(max_size=4))
        content[at:at + data.draw(st.integers(0, 4))] = new
    path = bundle / name
    path.write_bytes(content)
    try:
        opens_or_refuses(bundle)
    finally:
        path.write_bytes((pristine / name).read_bytes())
