# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""bench end-to-end: the ceiling holds, records come from what was told, a real small run."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from neuron_chunk_ros.bench.ceiling import ceiling
from neuron_chunk_ros.bench.end_to_end import models
from neuron_chunk_ros.bench.end_to_end.measure import EndToEndOptions, Found, Process
from neuron_chunk_ros.bench.end_to_end.report import report
from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.families import FAMILIES

FACTS = {'command': 'neuron-chunk bench end-to-end', 'machine': {'cores': 2}, 'quick': True}

TAKER = """
import sys
from pathlib import Path
from neuron_chunk_ros.bench.ceiling import Ceiling
group = Ceiling(Path(sys.argv[1]), sys.argv[2])
group.enter()
group.close_at(int(sys.argv[3]) << 20)
memory = bytearray(b'x') * (int(sys.argv[4]) << 20)
print(len(memory))
"""


@pytest.mark.parametrize('taken, code', [(40, 0), (400, -9)])
def test_who_takes_more_than_the_ceiling_is_ended(taken, code):
    with ceiling('test') as group:
        if group is None:
            pytest.skip('no memory cgroup may be made here')
        done = subprocess.run([sys.executable, '-c', TAKER, str(group.folder), group.limit, '200',
                               str(taken)], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert not group.folder.exists()


def told(way, what, seconds, **more):
    return {'way': way, 'what': what, 'seconds': seconds, 'bytes': int(1e6 * seconds),
            'warm_up': False, **more}


def bills(way, what, *times):
    return [told(way, what, s, wait=s / 10, read=s / 2, compute=s / 2, choose=0.01)
            for s in times]


def test_records_are_medians_of_what_was_told(tmp_path):
    warm = [{**one, 'warm_up': True} for one in bills('dense', 'frame', 99.0)]
    processes = [
        Process('qwen2-1.5b', 250, 'ours', [], 'memory_budget_mb is 250, but 591 MB are needed'),
        Process('qwen2-1.5b', 500, 'ours', [
            *warm, *bills('dense', 'frame', 2.0, 3.0, 1.0), *bills('dense', 'decode', 1.0, 1.2),
            told('dense', 'first', 4.0), *bills('50% skipped', 'frame', 1.0),
            *bills('50% skipped', 'decode', 0.4), told('', 'memory', 0.0, heads=100.0),
            told('', 'peak', 0.0, over_base=450)]),
        Process('qwen2-1.5b', 500, 'llama.cpp, memory-mapped BF16',
                [told('llama.cpp, memory-mapped BF16', 'decode', 2.2)]),
        Process('qwen2-1.5b', 500, 'transformers, memory-mapped', [],
                'ended by the kernel: more memory than the ceiling')]
    found = Found({'qwen2-1.5b': 1000}, {'qwen2-1.5b': [1.0, 2.0, 3.0]}, {'qwen2-1.5b': 900},
                  processes, True)
    made = report(EndToEndOptions(tmp_path), found, FACTS)
    runs = {one['who']: one for one in made.records['runs']}
    dense, half = runs['here, dense'], runs['here, 50% skipped']
    assert (dense['frame_s'], dense['decode_s'], dense['frames']) == (2.0, 1.1, 3)
    assert (dense['frame_wait_s'], half['frame_s'], half['heads_mb']) == (0.2, 1.0, 100.0)
    assert np.isnan(runs['transformers, memory-mapped']['frame_s'])
    assert runs['transformers, memory-mapped']['note'].startswith('ended by the kernel')
    goals = {one['what'].split(': ', 1)[1]: one for one in made.summary}
    assert goals['frame, 50% skipped, against dense']['met'] == 'yes'
    assert goals['waited in it, of the reading']['reached'] == pytest.approx(0.2)
    assert goals['decode, dense, times faster than llama.cpp BF16']['met'] == 'NO'
    assert goals['memory used of the ceiling']['reached'] == pytest.approx(0.9)
    assert len(made.lines) == 5 and '2.00 s with every row, 1.00 s with half' in made.lines[1]
    # Both documents are brought up to date.
    docs = tmp_path / 'docs'
    docs.mkdir()
    marks = '<!-- end-to-end: written by the tool -->\n<!-- end-to-end: end -->\n'
    (docs / 'BENCHMARKS.md').write_text(marks)
    (tmp_path / 'README.md').write_text(marks)
    made.write_files(docs / 'benchmarks')
    assert '- A word: 1.10 s, 0.40 s.' in (docs / 'BENCHMARKS.md').read_text()
    assert 'here, 50% skipped' in (tmp_path / 'README.md').read_text()
    with open(docs / 'benchmarks' / 'end-to-end-runs.csv') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and rows[1]['frame_wait_s'] == '0.2' and rows[0]['frame_wait_s'] == ''


def test_every_tensor_of_the_decoder_has_a_name_in_gguf(tiny_models):
    from safetensors import safe_open
    folder = tiny_models['tiny-llava-onevision']
    with safe_open(folder / 'model.safetensors', 'pt') as tensors:
        names = list(tensors.keys())
    found = {name: models._gguf_name(name) for name in names}
    mine = [name for name in names if FAMILIES['llava_onevision'].canonical(name).startswith(
        'model.language_model.')]
    assert len(mine) > 30 and all(found[name] for name in mine)
    assert len({found[name] for name in mine}) == len(mine)
    assert not any(found[name] for name in names if 'vision' in name or 'projector' in name)
    assert found[next(n for n in mine if n.endswith('layers.1.mlp.down_proj.weight'))] == (
        'blk.1.ffn_down.weight')


@pytest.mark.parametrize('arguments, message', [
    (['--decoders', 'llama-3-8b'], "no decoder 'llama-3-8b'"),
    (['--contestants', 'ours,vllm'], "no contestant 'vllm'"),
    (['--path', '/nowhere'], 'no such folder')])
def test_what_cannot_be_measured_is_one_line(capsys, arguments, message):
    assert main(['bench', 'end-to-end', '--quick', *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


@pytest.mark.slow
def test_a_real_run(tmp_path):
    out = tmp_path / 'found.json'
    assert main(['bench', 'end-to-end', '--quick', '--ceilings', '1', '--path', str(tmp_path),
                 '--contestants', 'ours,accelerate', '--repeats', '1', '--seconds', '60',
                 '--json', str(out)]) == 0
    found = json.loads(out.read_text())
    runs = {one['who']: one for one in found['runs']}
    assert set(runs) == {'here, dense', 'here, 50% skipped', 'here, int4 rows, dense',
                         'here, int4 rows, 50% skipped', 'accelerate, disk offload'}
    assert runs['here, int4 rows, dense']['frames']
    ours = runs['here, dense']
    assert ours['note'] == '' and ours['frames'] and ours['decodes']
    assert 0 < ours['decode_s'] < ours['first_s'] and ours['peak_mb'] <= ours['ceiling_mb']
    assert [one['seconds'] > 0 for one in found['passes']] == [True]
    assert not [path for path in tmp_path.iterdir() if path != out]
