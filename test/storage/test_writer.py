# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writing bundles: exact bytes, readable by others, and all or nothing whatever happens."""

import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.storage.atomic import AtomicFolder
from neuron_chunk_ros.storage.bundle import Bundle, GroupPlan, Member
from neuron_chunk_ros.storage.row_format import ROW_FORMATS
from neuron_chunk_ros.storage.safetensors_header import plan_header, read_header
from neuron_chunk_ros.storage.verify import verify
from neuron_chunk_ros.storage.writer import BundleWriter, ResidentTensor

SOME = [GroupPlan('layers.0.qkv', 6, (Member('m.q', 4), Member('m.k', 3))),
        GroupPlan('layers.0.down', 1000, (Member('m.d', 5),))]
STORE = {'bfloat16': np.uint16, 'float16': np.float16, 'float32': np.float32}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'config.json'
    path.write_text('{"model_type": "x"}')
    return path


def fill(writer, config, plans=SOME, dtype=np.uint16):
    rng = np.random.default_rng(0)
    arrays = {plan.name: rng.integers(0, 1000, (plan.rows, plan.columns)).astype(dtype)
              for plan in plans}
    writer.copy_file(config)
    for name, array in arrays.items():
        writer.write_group(name, array)
    writer.write_resident([ResidentTensor('norm', 'F32', (2,), np.ones(2, np.float32))])
    return arrays


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != 'config.json')


@pytest.mark.parametrize('dtype', STORE)
@pytest.mark.parametrize('limit', [1, 10050, 1 << 32])
def test_safetensors_reads_the_same_bytes(tmp_path, config, dtype, limit):
    plans = SOME + [GroupPlan('layers.1.qkv', 1, (Member('n', 1),))]
    with BundleWriter(tmp_path / 'b', 'f', dtype, plans, {'by': 'test'},
                      max_shard_bytes=limit) as writer:
        arrays = fill(writer, config, plans, STORE[dtype])
    bundle = Bundle.open(tmp_path / 'b')
    fit_together = 3 if dtype == 'float32' else 2
    assert len(bundle.flash_files) == {1: 3, 10050: fit_together, 1 << 32: 1}[limit]
    assert bundle.provenance == {'by': 'test'} and verify(bundle) == []
    read = {}
    for path in bundle.flash_files:
        with safe_open(path, 'pt') as file:  # torch knows bfloat16, numpy does not
            for name in file.keys():
                if not name.startswith('__pad.'):
                    read[name] = file.get_tensor(name)
                    assert str(read[name].dtype) == f'torch.{dtype}'
        assert path.stat().st_size % 4096 == 0
    import torch
    assert list(bundle.groups) == list(arrays)
    for name, array in arrays.items():
        expected = torch.from_numpy(array).view(getattr(torch, dtype))
        assert torch.equal(read[name], expected)
        group = bundle.groups[name]
        whole = (bundle.path / group.file).read_bytes()
        assert whole[group.offset:group.offset + group.nbytes] == array.tobytes()
        assert group.checksum == hashlib.sha256(array.tobytes()).hexdigest()


def test_resident_is_readable_and_aligned(tmp_path, config):
    tensors = [
        ResidentTensor('odd', 'U8', (3,), b'abc'),
        ResidentTensor('half', 'F16', (2, 2), lambda: iter([b'\1\0\2\0', b'\3\0\4\0'])),
        ResidentTensor('single', 'F32', (), np.float32(7).tobytes()),
        ResidentTensor('none', 'F32', (0, 4), b''),
    ]
    with BundleWriter(tmp_path / 'b', 'f', 'bfloat16', SOME, {}) as writer:
        writer.copy_file(config)
        for plan in SOME:
            writer.write_group(plan.name, np.zeros((plan.rows, plan.columns), np.uint16))
        writer.write_resident(tensors)
    bundle = Bundle.open(tmp_path / 'b')
    assert bundle.resident_bytes == 3 + 8 + 4
    with safe_open(bundle.resident_file, 'np') as file:
        assert bytes(file.get_tensor('odd')) == b'abc'
        assert file.get_tensor('half').view(np.uint16).tolist() == [[1, 2], [3, 4]]
        assert file.get_tensor('single') == 7 and file.get_tensor('none').shape == (0, 4)
    assert all(entry.begin % 4 == 0 for name, entry in bundle.resident_tensors.items()
               if entry.dtype == 'F32')


@pytest.mark.parametrize('array', [
    np.zeros((7, 6), np.uint16), np.zeros((6, 7), np.float32), np.zeros((6, 7), np.int16),
    np.zeros((6, 7), np.float16), np.zeros(42, np.uint16)])
def test_wrong_array_leaves_nothing(tmp_path, config, array):
    with pytest.raises(BundleError, match='layers.0.qkv'):
        with BundleWriter(tmp_path / 'b', 'f', 'bfloat16', SOME, {}) as writer:
            writer.write_group('layers.0.qkv', array)
    assert left_in(tmp_path) == []


def misuse_unknown(writer, config):
    writer.write_group('layers.9.qkv', np.zeros((6, 7), np.uint16))


def misuse_twice(writer, config):
    for _ in range(2):
        writer.write_group('layers.0.qkv', np.zeros((6, 7), np.uint16))


def misuse_incomplete(writer, config):
    writer.write_group('layers.0.qkv', np.zeros((6, 7), np.uint16))


def misuse_no_config(writer, config):
    for plan in SOME:
        writer.write_group(plan.name, np.zeros((plan.rows, plan.columns), np.uint16))
    writer.write_resident([])


def misuse_short_resident(writer, config):
    writer.write_resident([ResidentTensor('norm', 'F32', (2,), b'1234567')])


def misuse_same_name(writer, config):
    writer.write_resident([ResidentTensor('norm', 'U8', (1,), b'1')] * 2)


def misuse_file_name(writer, config):
    other = config.with_name('.hidden')
    other.write_text('')
    try:
        writer.copy_file(other)
    finally:
        other.unlink()


@pytest.mark.parametrize('misuse, words', [
    (misuse_unknown, 'not planned'), (misuse_twice, 'already written'),
    (misuse_incomplete, 'group layers.0.down was never'), (misuse_no_config, 'config.json was'),
    (misuse_short_resident, 'norm: got 7'), (misuse_same_name, 'own name'),
    (misuse_file_name, '.hidden')])
def test_misuse_leaves_nothing(tmp_path, config, misuse, words):
    with pytest.raises(BundleError, match=words):
        with BundleWriter(tmp_path / 'b', 'f', 'bfloat16', SOME, {}) as writer:
            misuse(writer, config)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit, RuntimeError, MemoryError])
def test_any_exception_leaves_nothing(tmp_path, config, error):
    with pytest.raises(error):
        with BundleWriter(tmp_path / 'b', 'f', 'bfloat16', SOME, {}) as writer:
            fill(writer, config)
            raise error
    assert left_in(tmp_path) == []


@pytest.mark.parametrize('kind', ['folder', 'file', 'dangling link'])
def test_existing_target_is_refused_and_kept(tmp_path, kind):
    target = tmp_path / 'b'
    {'folder': target.mkdir, 'file': target.touch,
     'dangling link': lambda: target.symlink_to('gone')}[kind]()
    with pytest.raises(BundleError, match='already exists'):
        with BundleWriter(target, 'f', 'bfloat16', SOME, {}):
            pass
    assert left_in(tmp_path) == ['b']


def test_target_that_appears_meanwhile_is_kept(tmp_path, config):
    target = tmp_path / 'b'
    with pytest.raises(BundleError, match='already exists'):
        with BundleWriter(target, 'f', 'bfloat16', SOME, {}) as writer:
            fill(writer, config)
            target.write_text('mine')
    assert left_in(tmp_path) == ['b'] and target.read_text() == 'mine'


def test_missing_parent(tmp_path):
    with pytest.raises(BundleError, match='is not a folder'):
        with BundleWriter(tmp_path / 'gone' / 'b', 'f', 'bfloat16', SOME, {}):
            pass


def test_too_little_space_is_said_with_numbers(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    huge = [GroupPlan('g', 1 << 20, (Member('m', free >> 19),))]
    with pytest.raises(BundleError, match=r'needs [\d,.]+ [MG]B, .* has [\d,.]+ [MG]B free'):
        with BundleWriter(tmp_path / 'b', 'f', 'bfloat16', huge, {}):
            pass
    assert left_in(tmp_path) == []


def test_file_size_limit_leaves_nothing(tmp_path, config):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
    try:
        with pytest.raises(BundleError, match='File too large'):
            with BundleWriter(tmp_path / 'b', 'f', 'bfloat16', SOME, {}) as writer:
                fill(writer, config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert left_in(tmp_path) == []


def test_disk_full_leaves_nothing(small_disk):
    with pytest.raises(BundleError, match='disk full while writing'):
        with AtomicFolder(small_disk / 'b') as folder:  # promises nothing, writes too much
            with open(folder.folder / 'x', 'wb') as file:
                for _ in range(32):
                    file.write(bytes(1 << 20))
    assert left_in(small_disk) == []
    with pytest.raises(BundleError, match='has 25.2 MB free'):
        with AtomicFolder(small_disk / 'b', 10 << 20):
            pass
    assert left_in(small_disk) == []


def test_os_errors_become_one_line(tmp_path):
    for code, words in ((errno.ENOSPC, 'disk full'), (errno.EDQUOT, 'disk full'),
                        (errno.EIO, 'Input/output error')):
        with pytest.raises(BundleError, match=words):
            with AtomicFolder(tmp_path / 'b'):
                raise OSError(code, os.strerror(code))
    assert left_in(tmp_path) == []


HOLDER = """
import sys, time
from neuron_chunk_ros.storage.atomic import AtomicFolder
with AtomicFolder(sys.argv[1]) as folder:
    (folder.folder / 'big').write_text('x')
    print('ready', flush=True)
    time.sleep(60)
"""


def test_killed_writer_is_cleaned_up_after_and_a_living_one_left_alone(tmp_path):
    holder = subprocess.Popen([sys.executable, '-c', HOLDER, str(tmp_path / 'b')],
                              stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == 'ready\n'
        with AtomicFolder(tmp_path / 'b2'):  # another target's writer
            pass
        with pytest.raises(RuntimeError):
            with AtomicFolder(tmp_path / 'b'):
                assert len(list(tmp_path.glob('.b.partial-*'))) == 2
                raise RuntimeError
        assert len(list(tmp_path.glob('.b.partial-*'))) == 1  # the living one's
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert left_in(tmp_path)[0].startswith('.b.partial-') and not (tmp_path / 'b').exists()
    with AtomicFolder(tmp_path / 'b') as folder:
        (folder.folder / 'x').write_text('')
    assert left_in(tmp_path) == ['b', 'b2']


def test_two_writers_of_one_target(tmp_path):
    code = HOLDER.replace('time.sleep(60)', 'time.sleep(0.2)')
    both = [subprocess.Popen([sys.executable, '-c', code, str(tmp_path / 'b')],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert any('already exists' in text for text in errors)
    assert left_in(tmp_path) == ['b']


def test_a_writer_overtaken_at_the_last_moment(tmp_path, monkeypatch):
    # what a rename finds when the other writer's comes between our check and it
    rename = os.rename

    def overtaken(source, target):
        target.mkdir()
        (target / 'theirs').write_text('x')
        rename(source, target)

    monkeypatch.setattr(os, 'rename', overtaken)
    with pytest.raises(BundleError, match='already exists'):
        with AtomicFolder(tmp_path / 'b') as folder:
            (folder.folder / 'ours').write_text('y')
    assert left_in(tmp_path) == ['b'] and os.listdir(tmp_path / 'b') == ['theirs']


def test_written_bundles_are_identical(tmp_path, config):
    for name in 'ab':
        with BundleWriter(tmp_path / name, 'f', 'bfloat16', SOME, {}) as writer:
            fill(writer, config)
        time.sleep(0.01)
    for path in (tmp_path / 'a').iterdir():
        assert path.read_bytes() == (tmp_path / 'b' / path.name).read_bytes()
    assert json.loads((tmp_path / 'a' / 'bundle.json').read_text())['version'] == 2


@settings(max_examples=100, deadline=None)
@given(shapes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3000)), max_size=6),
       align=st.booleans())
def test_planned_headers_are_valid(tmp_path_factory, shapes, align):
    header, entries = plan_header(
        ((f't{i}', 'BF16', shape) for i, shape in enumerate(shapes)), align)
    size = max([len(header)] + [entry.end for entry in entries.values()])
    path = tmp_path_factory.mktemp('header') / 'x.safetensors'
    path.write_bytes(header.ljust(size, b'\0'))
    assert read_header(path, BundleError) == entries
    assert len(header) % 4096 == 0
    if align:
        assert all(entry.begin % 4096 == 0 for name, entry in entries.items()
                   if not name.startswith('__pad.'))
        assert size % 4096 == 0
    with safe_open(path, 'pt') as file:
        assert sorted(file.keys()) == sorted(entries)


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_rounding_equals_torch(values):
    import torch
    array = np.array(values, np.float32)
    for dtype in STORE:
        expected = torch.from_numpy(array.copy()).to(getattr(torch, dtype))
        if (torch.isinf(expected) & torch.isfinite(torch.from_numpy(array))).any():
            with pytest.raises(OverflowError):
                ROW_FORMATS[dtype].pack(array)
            continue
        bits = ROW_FORMATS[dtype].pack(array)
        back = torch.from_numpy(ROW_FORMATS[dtype].unpack(bits))
        assert torch.equal(torch.nan_to_num(back, nan=1.5),
                           torch.nan_to_num(expected.float(), nan=1.5))
        assert torch.equal(back.isnan(), expected.isnan())
