# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk profile as a user runs it: output, files, refusals, and being stopped midway."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import commands
import numpy as np
import pytest
from PIL import Image

from neuron_chunk_ros.storage import profile_file
from neuron_chunk_ros.storage.measure import SIZES_KIB
from neuron_chunk_ros.storage.profile import PROFILE_JSON

# --buffered and --allow-tmpfs: the tests run wherever there is a disk or none
QUICK = ['--seconds', '1', '--buffered', '--allow-tmpfs']
PICTURE = 'storage-profile.png'


def run(*arguments):
    return commands.run('profile', *arguments)


def refused(*arguments):
    return commands.refused('profile', *arguments)


def test_a_folder_of_bundles(tmp_path):
    done = commands.run_apart('profile', '--path', tmp_path, *QUICK)
    assert done.returncode == 0 and done.stderr == '', done.stderr
    assert sorted(os.listdir(tmp_path)) == [PROFILE_JSON, PICTURE]
    profile = profile_file.load(tmp_path / PROFILE_JSON)
    assert profile.source == 'measured' and profile.about['direct_io'] == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows if len(row) == 4 and row[0].isdigit()] == list(
        map(str, SIZES_KIB))
    for words in (f'saturated from {profile.saturation_kib} KiB', 'errs by', 'direct I/O no',
                  f'profile: {tmp_path / PROFILE_JSON}', f'picture: {tmp_path / PICTURE}'):
        assert words in done.stdout
    picture = Image.open(tmp_path / PICTURE)
    assert picture.width > 800 and len(np.unique(np.asarray(picture))) > 20


@pytest.mark.slow
def test_a_bundle_is_left_alone(tiny_bundles, tmp_path):
    bundle = Path(shutil.copytree(tiny_bundles['tiny-qwen2-vl'], tmp_path / 'bundle'))
    before = sorted(os.listdir(bundle))
    (tmp_path / PROFILE_JSON).write_text('what an earlier release wrote')
    drawn = tmp_path / 'drawn.SVG'
    done = run('--path', bundle, '--json', '--plot', drawn, *QUICK)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(bundle)) == before
    assert sorted(os.listdir(tmp_path)) == ['bundle', 'drawn.SVG', PROFILE_JSON]
    assert json.loads(done.stdout) == json.loads((tmp_path / PROFILE_JSON).read_text())
    assert '<svg' in drawn.read_text()
    assert profile_file.find(bundle)[1] == ''


def test_refused_before_anything_is_measured(tmp_path):
    assert 'gone: no such folder' in refused('--path', tmp_path / 'gone')
    (tmp_path / 'file').touch()
    assert 'is not a folder' in refused('--path', tmp_path / 'file')
    assert 'no such folder' in refused('--path', tmp_path, '--plot', tmp_path / 'gone' / 'x.png')
    assert 'a picture ends in .png' in refused('--path', tmp_path, '--plot', 'x.gif')
    assert os.listdir(tmp_path) == ['file']
    for seconds in ('0', '1000', 'nan', 'long'):
        assert run('--path', tmp_path, '--seconds', seconds).returncode == 2
    assert run().returncode == 2


def test_memory_and_small_disks(small_disk):
    assert 'lies in memory (tmpfs)' in refused('--path', small_disk)
    assert 'measuring needs 268 MB' in refused('--path', small_disk, '--allow-tmpfs')
    assert os.listdir(small_disk) == []


def test_read_only_storage(tmp_path):
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'ro', 'tmpfs', str(tmp_path)],
                             capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f'mounting is not allowed here: {mounted.stderr.strip()}')
    try:
        assert 'is not writable' in refused('--path', tmp_path)
    finally:
        subprocess.run(['umount', str(tmp_path)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143),
                                          (signal.SIGKILL, -signal.SIGKILL)])
@pytest.mark.parametrize('moment', ['writing', 'reading'])
def test_stopped_midway_leaves_nothing(tmp_path, number, code, moment):
    process = subprocess.Popen(
        [*commands.COMMAND, 'profile', '--path', str(tmp_path), '--buffered', '--allow-tmpfs',
         '--seconds', '8'],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        # The reader opens the file once more than the writer.
        wanted = {'writing': 1, 'reading': 2}[moment]
        deadline = time.monotonic() + 60
        while _opened(process.pid, tmp_path) < wanted:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
        assert process.returncode == code and out == b'' and error == b''
    finally:
        process.kill()
        process.communicate()
    assert os.listdir(tmp_path) == []


def _opened(pid, folder):
    """Count the process's descriptors of nameless files in a folder."""
    count = 0
    for entry in Path(f'/proc/{pid}/fd').iterdir():
        try:
            link = os.readlink(entry)
        except FileNotFoundError:
            continue
        count += link.startswith(f'{folder}/') and link.endswith(' (deleted)')
    return count
