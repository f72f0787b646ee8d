# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk calibrate and rewrite as a user types them, also when they are stopped."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from commands import COMMAND, run, run_apart
from PIL import Image

from neuron_chunk_ros.cli.samples import _files, _samples
from neuron_chunk_ros.picture_file import read_picture


@pytest.fixture
def answer():
    """Give a way to run a command in this process: (exit code, stdout, stderr)."""
    def command(*arguments):
        done = run(*arguments)
        return done.returncode, done.stdout, done.stderr
    return command


@pytest.fixture
def bundle(tiny_bundles, tmp_path):
    return Path(shutil.copytree(tiny_bundles['tiny-llava-onevision'], tmp_path / 'bundle'))


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    rng = np.random.default_rng(0)
    for name, mode in (('a.png', 'RGB'), ('b.jpg', 'L'), ('c.webp', 'RGB'), ('e.png', 'RGBA')):
        size = (40, 60) if mode == 'L' else (40, 60, len(mode))
        Image.fromarray(rng.integers(0, 256, size, np.uint8), mode).save(folder / name)
    (folder / 'd.png').write_bytes((folder / 'a.png').read_bytes()[:200])
    (folder / 'notes.txt').write_text('not a picture')
    (folder / '.hidden').write_text('not looked at')
    (folder / 'folder').mkdir()
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_calibrate_rewrite_and_back(bundle, pictures, tmp_path):
    done = run_apart('calibrate', bundle, '--images', pictures, '--prompt', 'what is this?',
               '--prompt', 'how many?', '--samples', 5)
    assert done.returncode == 0 and 'calibrated on 5 samples' in done.stdout, done.stderr
    assert done.stderr.count('\n') == 1
    assert 'note: 2 of 6 files were left out, the first: ' in done.stderr
    assert 'd.png: not a readable picture' in done.stderr
    report = json.loads(run('inspect', '--json', bundle).stdout)
    assert report['calibration']['about']['prompts'] == ['what is this?', 'how many?']
    assert report['order'] == 'original' and report['groups'][0]['order'] is None

    hot = tmp_path / 'hot'
    done = run('rewrite', bundle, hot, '--order', 'hot-cold', '--layout', 'separate')
    assert done.returncode == 0 and 'separate, hot-cold' in done.stdout and done.stderr == ''
    text = run('inspect', hot).stdout
    assert 'hot-cold' in text and 'separate' in text and 'from 5 samples' in text
    report = json.loads(run('inspect', '--json', hot).stdout)
    down = next(g for g in report['groups'] if g['name'] == 'layers.0.down')
    assert len(down['order']['absorbed_by']) == 2
    assert sorted(down['order']['channels']) == list(range(down['rows']))
    assert run('rewrite', hot, tmp_path / 'back', '--order', 'original', '--layout',
               'bundled').returncode == 0
    assert contents(tmp_path / 'back') == contents(bundle)


def shown(folder, number, seed):
    """Return (prompt, sum of the picture's values) of each sample, three prompts taking turns."""
    return [(prompt, int(picture.sum())) for prompt, (picture,) in
            _samples(_files(folder), ['x', 'y', 'z'], number, seed)]


def test_pictures_and_prompts_take_turns(pictures, capsys):
    values = [int(read_picture(pictures / name).sum())
              for name in ('a.png', 'b.jpg', 'c.webp', 'e.png')]
    assert shown(pictures, None, 0) == list(zip('xyzx', values, strict=True))
    assert 'd.png' in capsys.readouterr().err
    assert [value for _, value in shown(pictures, 10, 0)] == [*values, *values, *values[:2]]
    assert len(set(shown(pictures, 12, 0))) == 12  # each picture with each prompt
    few = {seed: shown(pictures, 2, seed) for seed in range(6)}
    assert few[3] == shown(pictures, 2, 3) and len({tuple(each) for each in few.values()}) > 1
    assert all(value in values for each in few.values() for _, value in each)


def test_what_cannot_be_done_is_said_in_one_line(bundle, pictures, tmp_path, answer):
    before = contents(bundle)
    empty = tmp_path / 'empty'
    empty.mkdir()
    for arguments, words in (
            (['calibrate', bundle, '--images', bundle / 'x'], 'no such folder of pictures'),
            (['calibrate', bundle, '--images', empty], 'none of the pictures'),
            (['calibrate', tmp_path / 'gone', '--images', pictures], 'no such bundle'),
            (['calibrate', bundle, '--images', pictures, '--device', 'fast'], "device 'fast'"),
            (['rewrite', bundle, tmp_path / 'b', '--order', 'hot-cold'],
             'neuron-chunk calibrate'),
            (['rewrite', bundle, empty, '--layout', 'separate'], 'already exists')):
        code, out, line = answer(*arguments)
        assert (code, out, line.count('\n')) == (1, '', 1) and words in line
    for arguments in (['calibrate', bundle], ['rewrite', bundle, tmp_path / 'b'],
                      ['calibrate', bundle, '--images', pictures, '--samples', '0'],
                      ['rewrite', bundle, tmp_path / 'b', '--order', 'random']):
        assert answer(*arguments)[0] == 2
    assert contents(bundle) == before and sorted(os.listdir(tmp_path)) == ['bundle', 'empty']


@pytest.mark.slow
def test_a_full_disk_leaves_the_bundle_as_it_was(bundle, pictures, tmp_path):
    before = contents(bundle)
    done = run_apart('calibrate', bundle, '--images', pictures, '--samples', 1,
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (14_000,) * 2))
    assert done.returncode == 1
    assert 'it is as it was' in done.stderr.splitlines()[-1]
    assert contents(bundle) == before


@pytest.fixture(scope='module')
def large_bundle(large_model, tmp_path_factory):
    from neuron_chunk_ros.prepare.convert import convert
    return convert(large_model, tmp_path_factory.mktemp('large') / 'bundle').path


def stopped_midway(bundle, target, number):
    """Start rewriting, send a signal once the temporary folder is there; return the exit code."""
    process = subprocess.Popen([*COMMAND, 'rewrite', str(bundle), str(target), '--layout',
                                'separate'], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not list(target.parent.glob(f'.{target.name}.partial-*')):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        for each in (signal.SIGSTOP, number, signal.SIGCONT):
            process.send_signal(each)
        process.communicate(timeout=60)
        return process.returncode
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize('number, code', [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_rewrite_stopped_midway(large_bundle, tiny_bundles, tmp_path, number, code):
    """Nothing is left, or, after a kill, what the next one removes; the source is untouched."""
    stamps = {path.name: path.stat().st_mtime_ns for path in large_bundle.iterdir()}
    assert stopped_midway(large_bundle, tmp_path / 'b', number) == code
    left = os.listdir(tmp_path)
    if number == signal.SIGKILL:
        assert len(left) == 1 and left[0].startswith('.b.partial-')
        assert run('rewrite', tiny_bundles['tiny-qwen2-vl'], tmp_path / 'b', '--layout',
                   'separate').returncode == 0
        assert os.listdir(tmp_path) == ['b']
    else:
        assert left == []
    assert stamps == {path.name: path.stat().st_mtime_ns for path in large_bundle.iterdir()}
