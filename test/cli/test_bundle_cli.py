# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command as a user runs it: what it prints, its exit codes, what is left behind."""

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import COMMAND, line_of, refused, run, run_apart

from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.prepare.convert import convert


@pytest.fixture
def bundle(tiny_bundles, tmp_path):
    return Path(shutil.copytree(tiny_bundles['tiny-qwen2-vl'], tmp_path / 'bundle'))


def test_no_heavy_imports_for_what_needs_none(bundle):
    """Help and looking at bundles start at once: torch alone takes seconds."""
    code = ('import sys; from neuron_chunk_ros.cli.main import main\n'
            'try: status = main(sys.argv[2:])\n'
            'except SystemExit as end: status = end.code\n'
            'assert not set(sys.argv[1].split()) & set(sys.modules); sys.exit(status)')
    for without, *command in (('torch transformers rclpy', '--help'), ('torch', 'inspect', bundle),
                              ('torch', 'verify', bundle)):
        done = subprocess.run([sys.executable, '-c', code, without, *map(str, command)],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if command == ['--help']:
            assert all(word in done.stdout for word in ('convert', 'inspect', 'verify', 'bench'))


def test_usage_errors():
    for arguments in ([], ['convert'], ['unheard-of'], ['synthesize', 'tiny-qwen2-vl'],
                      ['convert', 'a', 'b', '--layout', 'sideways']):
        assert run(*arguments).returncode == 2


def test_unknown_types_are_one_line(tiny_models, tmp_path):
    for arguments in (['convert', tiny_models['tiny-qwen2-vl']], ['synthesize', 'tiny-qwen2-vl']):
        done = run(*arguments, tmp_path / 'out', '--dtype', 'int4')
        assert done.returncode == 1 and done.stderr.count('\n') == 1
        assert "dtype 'int4' is not one of bfloat16, float16, float32" in done.stderr


def test_synthesize_convert_inspect_verify(tmp_path):
    model, bundle = tmp_path / 'model', tmp_path / 'bundle'
    done = run('synthesize', 'tiny-llava-onevision', model, '--seed', 3)
    assert done.returncode == 0 and 'seed 3' in done.stdout, done.stderr
    done = run_apart('convert', model, bundle)
    assert done.returncode == 0 and '12 groups' in done.stdout and done.stderr == ''
    done = run('verify', bundle)
    assert done.returncode == 0 and 'intact' in done.stdout
    assert 'already exists' in refused('convert', model, bundle)
    assert 'already exists' in refused('synthesize', 'tiny-qwen2-vl', model)


def test_synthesize_lists_presets():
    done = run('synthesize')
    assert done.returncode == 0
    for preset in ('llava-onevision-0.5b', 'llava-onevision-7b', 'qwen2-vl-2b'):
        assert preset in done.stdout
    assert 'qwen2-vl-2b' in refused('synthesize', 'gpt-5', 'x')


def test_inspect(bundle):
    text = run('inspect', bundle).stdout
    for words in ('qwen2_vl', 'float32', 'neuron_chunk_ros', 'tokenizer.json',
                  'q_proj 64 + k_proj 32 + v_proj 32', 'gate_proj 192 + up_proj 192'):
        assert words in text
    row = next(line for line in text.splitlines() if line.startswith('layers.*.gate_up'))
    assert row.split()[1:5] == ['3', '64', '384', '1536']
    report = json.loads(run('inspect', '--json', bundle).stdout)
    assert report['groups'][0]['name'] == 'layers.0.qkv'
    assert report['groups'][0]['members'][1]['columns'] == 32
    assert report['flash_bytes'] == sum(
        group['rows'] * group['row_bytes']
        for group in [*report['groups'], report['embedding'], report['lm_head']])
    assert report['files'] and report['provenance']['source'] == 'tiny-qwen2-vl'


@pytest.mark.parametrize('split', [False, True])
def test_inspect_tells_what_a_budget_gets(tiny_models, tmp_path, split):
    """It is what a session with this budget holds and reads."""
    model = tiny_models['tiny-llava-onevision']
    path = convert(model, tmp_path / 'bundle', **({'rows': 'int8', 'base': 4} if split else {}),
                   ).path
    picture = np.zeros((56, 56, 3), np.uint8)
    whole = json.loads(run('inspect', '--json', '--memory-budget-mb', '0', path).stdout)
    needed = -(-(whole['total'] - whole['heads']) // 2**20)
    for budget in (0, needed, needed + 1, needed + 40):
        told = json.loads(run('inspect', '--json', '--memory-budget-mb', str(budget), path).stdout)
        with Session.open(path, memory_budget_mb=budget or None, drafts=False) as session:
            assert told['total'] == session.plan.total and told['heads'] == session.plan.heads
            session.ask('what is it?', [picture], max_new_tokens=3)  # fills heads and words
            step = session.ask('what is it?', [picture], max_new_tokens=3).steps[-1]
            assert step.bytes_used == told['word']['nbytes']
            stream = session.stream(1)
            stream.append(picture)
            assert stream.append(picture).bytes_used == told['frame']['nbytes']
        assert told['frame']['nbytes'] <= told['word']['nbytes']
    text = run('inspect', '--memory-budget-mb', '0', path).stdout
    assert 'MB read where nothing is skipped' in text and ('coarse' in text) == split
    done = run('inspect', '--memory-budget-mb', '9', path)
    assert done.returncode == 1 and 'MB are needed' in done.stderr


def test_a_bundle_with_a_manifest_of_its_own_is_a_bundle(bundle):
    """Folders of models may have any JSON file, and convert copies it."""
    (bundle / 'manifest.json').write_text('{}')
    done = run('verify', bundle)
    (bundle / 'manifest.json').unlink()
    assert done.returncode == 0 and 'resident tensors' in done.stdout, done.stderr


def test_inspect_into_a_closed_pipe(bundle):
    done = subprocess.run(f'{shlex.join(COMMAND)} inspect --json {bundle} | head -1', shell=True,
                          capture_output=True, text=True)
    assert done.stdout == '{\n' and done.stderr == ''


def test_verify_names_each_damaged_group(bundle):
    groups = json.loads((bundle / 'bundle.json').read_text())['groups']
    for group in (groups[1], groups[7]):
        with open(bundle / group['file'], 'r+b') as file:
            file.seek(group['offset'] + 10)
            file.write(b'damage')
    done = run('verify', bundle)
    assert done.returncode == 1 and done.stdout == ''
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    for line, group in zip(lines, (groups[1], groups[7]), strict=True):
        assert line.startswith('neuron-chunk: damaged: group ' + group['name'] + ' ')


def test_errors_are_one_line(tiny_models, bundle, tmp_path):
    assert 'no such bundle' in refused('inspect', tmp_path / 'gone')
    assert 'no such bundle' in refused('verify', bundle / 'bundle.json')
    assert 'not a bundle' in refused('inspect', tiny_models['tiny-qwen2-vl'])
    (bundle / 'bundle.json').write_text('{')
    assert 'bundle.json' in refused('verify', bundle)
    assert 'no such model folder' in refused('convert', tmp_path / 'gone', tmp_path / 'b')
    (tmp_path / 'm').mkdir()
    assert 'config.json is missing' in refused('convert', tmp_path / 'm', tmp_path / 'b')
    (tmp_path / 'm' / 'config.json').write_text('{"model_type": "mamba"}')
    assert "'mamba' is not supported" in refused('convert', tmp_path / 'm', tmp_path / 'b')
    assert not (tmp_path / 'b').exists()


def test_running_out_of_disk_midway(tiny_models, tmp_path):
    (tmp_path / 'here').mkdir()
    line = line_of(run_apart(
        'convert', tiny_models['tiny-qwen2-vl'], tmp_path / 'here' / 'b',
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000,) * 2)))
    assert 'File too large' in line
    assert os.listdir(tmp_path / 'here') == []


def stopped_midway(model, folder, signals):
    """Start converting, send signals once the temporary folder is there; return the exit code."""
    process = subprocess.Popen([*COMMAND, 'convert', str(model), str(folder / 'b')],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not list(folder.glob('.b.partial-*')):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        for number in (signal.SIGSTOP, *signals, signal.SIGCONT):
            process.send_signal(number)
        process.communicate(timeout=60)
        return process.returncode
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_midway_leaves_nothing(large_model, tmp_path, number, code):
    assert stopped_midway(large_model, tmp_path, [number]) == code
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_killed_midway_is_cleaned_up_by_the_next(large_model, tiny_models, tmp_path):
    assert stopped_midway(large_model, tmp_path, [signal.SIGKILL]) == -signal.SIGKILL
    left = os.listdir(tmp_path)
    assert len(left) == 1 and left[0].startswith('.b.partial-')
    assert run('convert', tiny_models['tiny-qwen2-vl'], tmp_path / 'b').returncode == 0
    assert os.listdir(tmp_path) == ['b']


def test_packed_rows(tiny_models, tmp_path):
    source, bundle = tiny_models['tiny-qwen2-vl'], tmp_path / 'bundle'
    done = run('convert', source, bundle, '--rows', 'int4')
    assert done.returncode == 0 and 'rows of int4' in done.stdout, done.stderr
    facts = json.loads(run('inspect', bundle, '--json').stdout)
    assert (facts['dtype'], facts['rows']) == ('float32', 'int4')
    assert 'intact' in run('verify', bundle).stdout
    assert "rows 'int5' are not one of int8, int8-128" in refused(
        'convert', source, tmp_path / 'other', '--rows', 'int5')
    assert '--rows int8' in refused('convert', source, tmp_path / 'other', '--dtype', 'int8')
