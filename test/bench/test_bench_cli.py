# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk bench from end to end, on as little as can be; the same keys whatever is asked."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.storage import profile_file
from neuron_chunk_ros.storage.profile import Profile

SMALL = ['--decoders', 'qwen2-0.5b', '--quick']
DOCS = Path(__file__).parents[2] / 'docs' / 'benchmarks'


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / 'profile.json'
    profile_file.save(Profile.assumed(), path)
    return ['--profile', str(path)]


def keys(value):
    """Return the shape of a JSON value: keys of objects, and of what lists hold."""
    if isinstance(value, dict):
        return {key: keys(part) for key, part in value.items()}
    if isinstance(value, list):
        shapes = [keys(part) for part in value]
        assert all(shape == shapes[0] for shape in shapes), 'records of one kind differ'
        return shapes[:1]
    return None


def run(tmp_path, name, *arguments):
    """Run one benchmark; return its JSON. Nothing may stay behind on the storage measured."""
    storage = tmp_path / 'storage'
    storage.mkdir(exist_ok=True)
    file = tmp_path / 'found.json'
    assert main(['bench', name, '--path', str(storage), '--json', str(file), *arguments]) == 0
    assert not list(storage.iterdir())
    return json.loads(file.read_text(), parse_constant=pytest.fail)


def check_files(folder, name, found):
    """CSV files hold the JSON's records, in columns of the same name; pictures are pictures."""
    for path in folder.glob('*.csv'):
        kind = path.stem.removeprefix(f'{name}-')
        with open(path) as file:
            rows = list(csv.DictReader(file))
        assert [set(row) for row in rows] == [set(record) for record in found[kind]]
        published = DOCS / path.name
        if published.exists():  # the full run that is in the documentation
            with open(published) as file:
                assert next(csv.reader(file)) == list(rows[0])
    pictures = list(folder.glob('*.png'))
    assert pictures and all(p.read_bytes()[:4] == b'\x89PNG' for p in pictures)


def check_common(found, name):
    assert found['benchmark'] == name
    assert {'device', 'file_system', 'kernel', 'date', 'processor', 'torch'} <= set(
        found['machine'])
    assert found['profile']['source'] == 'assumed'
    assert {goal['met'] for goal in found['summary']} <= {'yes', 'NO', ''}


def test_select(tmp_path, profile, capsys):
    out = tmp_path / 'out'
    found = run(tmp_path, 'select', *SMALL, *profile, '--repeats', '3', '--out', str(out))
    check_common(found, 'select')
    check_files(out, 'select', found)
    assert found['calls'] == 3
    assert {m['policy'] for m in found['matrices']} == {'topk', 'greedy', 'optimal'}
    assert (896, 4864) in {(m['rows'], m['columns']) for m in found['matrices']}
    for layer in found['layers']:
        assert layer['share'] == pytest.approx(layer['median_ms'] / layer['read_ms'], rel=1e-3)
    assert 'What was to be reached' in capsys.readouterr().out
    other = run(tmp_path, 'select', '--quick', '--decoders', 'qwen2-7b', *profile,
                '--repeats', '2')
    assert keys(other) == keys(found)
    assert any('(18944, 3584)' in goal['what'] for goal in other['summary'])


@pytest.mark.slow
def test_read(tmp_path, profile, capsys):
    out = tmp_path / 'out'
    found = run(tmp_path, 'read', *SMALL, *profile, '--repeats', '3', '--sparsities', '0,0.5',
                '--out', str(out))
    check_common(found, 'read')
    check_files(out, 'read', found)
    steps = {(s['layout'], s['source'], s['sparsity'], s['policy'], s['reader']): s
             for s in found['steps']}
    for (layout, source, sparsity, *_), step in steps.items():
        baseline = steps[layout, source, sparsity, 'topk', 'paper']
        assert step['speedup'] == pytest.approx(baseline['median_ms'] / step['median_ms'],
                                                rel=1e-3)
        assert step['speedup_low'] <= step['speedup'] <= step['speedup_high']
        assert step['importance_kept'] >= baseline['importance_kept'] * (1 - 1e-4)
        if layout == 'bundled':
            papers = steps['separate', source.replace(', hot-cold', ''), sparsity, 'topk',
                           'paper']
            assert step['against_paper'] == pytest.approx(
                papers['median_ms'] / step['median_ms'], rel=1e-3)
    text = capsys.readouterr().out
    assert 'dense, our reader' in text and 'nothing measured' in text
    assert all(record['device'] in ('orin-nano', 'agx-orin') for record in found['simulated'])
    other = run(tmp_path, 'read', *SMALL, *profile, '--repeats', '2', '--sparsities', '0.6',
                '--sources', 'lognormal, cv 2')
    assert keys(other) == keys(found)


@pytest.mark.slow
def test_accuracy(tmp_path, profile, capsys):
    out = tmp_path / 'out'
    found = run(tmp_path, 'accuracy', *SMALL, *profile, '--repeats', '3', '--scenes', '2',
                '--samples', '2', '--sparsities', '0,0.5', '--out', str(out))
    check_common(found, 'accuracy')
    check_files(out, 'accuracy', found)
    dense = [p for p in found['points'] if p['sparsity'] == 0]
    assert len({p['accuracy'] for p in dense}) == 1 and dense[0]['rows_read'] == 1
    shown = {(p['policy'], p['order']) for p in found['points']}
    assert shown >= {(policy, order) for policy in ('topk', 'greedy', 'optimal')
                     for order in ('original', 'hot-cold')}
    baseline = [p for p in found['points'] if (p['policy'], p['reader'], p['layout'],
                p['budgets']) == ('topk', 'paper', 'separate', 'TEAL')]
    assert all(p['speedup'] == pytest.approx(1) for p in baseline)
    shares = {}
    for one in found['contiguity']:
        key = tuple(one[k] for k in ('policy', 'order', 'budgets', 'falls_back'))
        shares[key] = shares.get(key, 0) + one['share_of_rows']
    assert all(total == pytest.approx(1, abs=1e-4) for total in shares.values())
    assert 'Simulated Jetsons' in capsys.readouterr().out
    other = run(tmp_path, 'accuracy', '--decoders', 'llama-3-8b', '--quick', *profile,
                '--repeats', '2', '--scenes', '1', '--samples', '1', '--sparsities', '0.7')
    assert keys(other) == keys(found)


@pytest.mark.parametrize('arguments, message', [
    (['--decoders', 'gpt-2'], "no decoder 'gpt-2'"),
    (['--path', '/nonexistent'], '/nonexistent: no such folder'),
    (['--json', '/nonexistent/x.json'], '/nonexistent: no such folder'),
    (['--sources', 'gaussian'], "no source 'gaussian'"),
    (['--profile', '/nonexistent.json'], '/nonexistent.json'),
])
def test_bad_arguments_get_one_line(tmp_path, profile, capsys, arguments, message):
    folder = ['--path', str(tmp_path)]
    assert main(['bench', 'read', *folder, *profile, *SMALL, *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


@pytest.mark.parametrize('arguments', [['--repeats', '0'], ['--sparsities', '1.5'],
                                       ['--sparsities', 'half']])
def test_bad_numbers_are_bad_usage(arguments):
    with pytest.raises(SystemExit) as exit_status:
        main(['bench', 'read', *arguments])
    assert exit_status.value.code == 2


def scratch_is_open(pid, folder):
    links = []
    for descriptor in os.listdir(f'/proc/{pid}/fd'):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f'/proc/{pid}/fd/{descriptor}'))
    return any(link.startswith(str(folder)) for link in links)


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(tmp_path, profile):
    storage = tmp_path / 'storage'
    storage.mkdir()
    command = [sys.executable, '-m', 'neuron_chunk_ros.cli.main', 'bench', 'read', '--path',
               str(storage), *profile, *SMALL, '--sources', 'lognormal, cv 2', '--repeats',
               '100000', '--out', str(tmp_path / 'out')]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    # It is well under way when it has its scratch file and its buffers.
    while time.monotonic() < deadline and process.poll() is None:
        with open(f'/proc/{process.pid}/status') as status:
            held = next(int(x.split()[1]) for x in status if x.startswith('RssAnon'))
        if held > 110_000 and scratch_is_open(process.pid, storage):
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert 'Traceback' not in error
    assert not list(storage.iterdir()) and not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_planes_over_tabletop(tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    found = run(tmp_path, 'planes', '--quick', '--exams', 'tabletop', '--out', str(out))
    check_files(out, 'planes', found)
    ways = {(one['how'], one['share']) for one in found['points']}
    assert ways == {('plain', 1.0), *(('base of 4 bits held', s) for s in (0.0, 0.3, 1.0)),
                    *(('hot rows held', s) for s in (0.0, 0.3)), ('left out', 0.7),
                    *((f'the same, {s}% left out', 0.3) for s in (10, 20))}
    at = {(one['how'], one['share'], one['chosen_for']): one for one in found['points']}
    held = at['hot rows held', 0.3, 'frames']['held_mib']
    assert held == at['base of 4 bits held', 0.3, 'frames']['held_mib'] > 1
    # what nobody could get right by chance: nearly all with bases, few without
    assert at['base of 4 bits held', 1.0, 'frames and words']['value'] > 0.9
    assert at['hot rows held', 0.0, 'frames and words']['value'] < 0.5


def test_exams_that_are_none(capsys, tmp_path):
    for arguments, words in ((['--exams', 'easy-vqa'], 'easy-vqa needs --model'),
                             (['--exams', 'chess'], "no exam 'chess': choose from tabletop"),
                             (['--splits', 'int8/7', '--exams', 'tabletop'], 'a base has 2, 3')):
        assert main(['bench', 'planes', '--quick', '--path', str(tmp_path), *arguments]) == 1
        assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_attention_over_tabletop(tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    found = run(tmp_path, 'attention', '--quick', '--out', str(out))
    check_files(out, 'attention', found)
    at = {(one['how'], one['tolerance']): one for one in found['points']}
    strict, loose = at['classes', 0.1], at['classes', 1.0]
    assert strict['density'] > loose['density'] and abs(strict['all']) <= loose['all']
    assert strict['drift'] < loose['drift'] and len(found['points']) == 4
    assert {(one['what'], one['heads']) for one in found['speeds']} == {
        (what, heads) for what in ('prompt', 'append')
        for heads in ('Intra-Image+Sink', 'tabletop')}
