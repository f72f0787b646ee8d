# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is exported agrees with the integer path: by numpy, C, ONNX, QONNX, Verilog and cocotb."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.compress import recipe as recipes
from neuron_chunk_ros.compress.export import check, memory, operations
from neuron_chunk_ros.compress.integers import compress
from neuron_chunk_ros.errors import ModelError, RecipeError, RequestError

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')
needs_icarus = pytest.mark.skipif(
    not shutil.which('iverilog'), reason='Icarus Verilog is not installed (apt: iverilog)')


def samples(count=2):
    rng = np.random.default_rng(0)
    return [(f'what is {number}?', [rng.integers(0, 256, (56, 56, 3), np.uint8)])
            for number in range(count)]


def everything():
    text = recipes.load('fixed-point').text
    return recipes.parse(re.sub(r'exports: .*', 'exports: [mem, header, onnx, qonnx, verilog]',
                                text))


@pytest.fixture(scope='module', params=FAMILIES)
def exported(request, tiny_models, tmp_path_factory):
    """Give a folder of every export, and the operations in it."""
    folder = tmp_path_factory.mktemp('exported') / 'out'
    _, report = compress(tiny_models[request.param], folder, everything(), samples())
    assert report.train_differs == 0 and not report.in_float
    return folder, operations.load(folder)[0]


def products(exported):
    return [one for one in exported[1] if one.kind == 'product']


def test_numpy_computes_the_golden_vectors(exported, capsys):
    folder, found = exported
    assert check.check(folder) == (len(found), [])
    kinds = {one.kind for one in found}
    assert kinds == {'product', 'convolution', 'norm', 'attention', 'table', 'embedding',
                     'rescale', 'add', 'multiply'}
    assert main(['verify', str(folder)]) == 0
    assert f'{len(found)} integer operations give their golden' in capsys.readouterr().out
    assert kinds <= set(json.loads((folder / 'manifest.json').read_text())['fields'])


@pytest.mark.parametrize('kind', ['product', 'norm', 'attention', 'table', 'rescale',
                                  'convolution'])
def test_a_wrong_constant_or_vector_is_found(exported, tmp_path, kind):
    """One bit of one constant, under checksums that fit it."""
    import hashlib
    folder = Path(shutil.copytree(exported[0], tmp_path / 'copy'))
    one = next(one for one in exported[1] if one.kind == kind)
    file, key = operations.VECTORS, 'output'
    if kind == 'product':
        file, key = operations.CONSTANTS, 'bias' if 'bias' in one.constants else 'multiplier'
    raw = bytearray((folder / file).read_bytes())
    entry = operations.read_header(folder / file, RecipeError)[f'{one.name}/{key}']
    raw[entry.begin + entry.nbytes // 2 // 4 * 4] ^= 0x40
    (folder / file).write_bytes(raw)
    with pytest.raises(RecipeError, match='checksum differs'):
        check.check(folder)
    manifest = json.loads((folder / 'manifest.json').read_text())
    manifest['files'][file]['sha256'] = hashlib.sha256(raw).hexdigest()
    (folder / 'manifest.json').write_text(json.dumps(manifest))
    _, wrong = check.check(folder)
    assert len(wrong) == 1 and wrong[0].startswith(f'{kind} {one.name}: ')


@settings(max_examples=100, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 20), item=st.sampled_from([8, 16, 32]),
       lanes=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 99))
def test_memory_images_are_read_back(rows, columns, item, lanes, seed):
    kind = np.dtype(f'int{item}')
    values = np.random.default_rng(seed).integers(np.iinfo(kind).min, np.iinfo(kind).max,
                                                  (rows, columns), kind, endpoint=True)
    text = memory.image(values, item * lanes, item)
    assert all(len(line) == item * lanes // 4 for line in text.splitlines())
    found = memory.parse(text, item * lanes, item).reshape(rows, -1)
    np.testing.assert_array_equal(found[:, :columns], values)
    assert not found[:, columns:].any()


def test_every_constant_has_its_image(exported):
    folder, found = exported
    for one in found:
        for key, values in one.constants.items():
            text = (folder / 'mem' / f'{operations.file_name(one.name)}.{key}.mem').read_text()
            assert f'{one.kind} {one.name}: {key}' in text.splitlines()[0]
            bits = 8 * values.itemsize
            rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
            got = memory.parse(text, max(64, bits), bits).reshape(len(rows), -1)
            np.testing.assert_array_equal(got[:, :rows.shape[1]], rows)


def test_c_computes_the_golden_vectors(exported, tmp_path):
    """A program over the headers and a product's vectors."""
    folder, _ = exported
    one = products(exported)[0]
    name, (outputs, inputs) = operations.file_name(one.name), one.constants['weight'].shape
    bias = f'{name}_bias[o]' if 'bias' in one.constants else '0'
    vectors = {key: memory._braces(one.vectors[key]) for key in ('input', 'output')}
    (tmp_path / 'program.c').write_text(f'''
#include <stdio.h>
#include "model.h"
static const int32_t input[][{inputs}] = {vectors['input']};
static const int32_t golden[][{outputs}] = {vectors['output']};
int main(void) {{
  int wrong = 0;
  for (unsigned v = 0; v < sizeof input / sizeof *input; ++v)
    for (int o = 0; o < {outputs}; ++o) {{
      int64_t sum = {bias};
      for (int i = 0; i < {inputs}; ++i) sum += input[v][i] * {name}_weight[o][i];
      sum = (sum * {name}_multiplier[o] + (1LL << ({name.upper()}_SHIFT - 1)))
            >> {name.upper()}_SHIFT;
      if (sum > 32767) sum = 32767;
      if (sum < -32768) sum = -32768;
      wrong += sum != golden[v][o];
    }}
  printf("%d\\n", wrong);
  return wrong != 0;
}}
''')
    subprocess.run(['gcc', '-I', folder / 'c', '-o', tmp_path / 'program',
                    tmp_path / 'program.c'], check=True)
    assert subprocess.run([tmp_path / 'program'], capture_output=True, text=True
                          ).stdout == '0\n'


def test_onnxruntime_computes_the_golden_vectors(exported):
    """Within a unit: it multiplies by scales where hardware multiplies and shifts."""
    onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    for one in products(exported):
        session = onnxruntime.InferenceSession(
            exported[0] / 'onnx' / f'{operations.file_name(one.name)}.onnx',
            providers=['CPUExecutionProvider'])
        given = (one.vectors['input'] * one.numbers['input_scale']).astype(np.float32)
        got, = session.run(None, {'x': given})
        codes = np.rint(got / one.numbers['scale']).astype(np.int64)
        assert np.abs(codes - one.vectors['output']).max() <= 1, one.name
        assert (codes == one.vectors['output']).mean() > 0.98


def test_qonnx_computes_the_golden_vectors(exported):
    pytest.importorskip('qonnx', reason='qonnx is not installed')
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    for one in products(exported)[::5]:
        path = exported[0] / 'qonnx' / f'{operations.file_name(one.name)}.onnx'
        given = (one.vectors['input'] * one.numbers['input_scale']).astype(np.float32)
        got = execute_onnx(ModelWrapper(str(path)), {'x': given})['y']
        codes = np.rint(got / one.numbers['scale']).astype(np.int64)
        assert np.abs(codes - one.vectors['output']).max() <= 1, one.name


def simulate(folder):
    subprocess.run(['iverilog', '-g2012', '-I.', '-o', 'bench', '../bench.v',
                    '../multiply_shift_layer.v'], cwd=folder, check=True)
    return subprocess.run(['vvp', '-n', 'bench'], cwd=folder, capture_output=True, text=True)


@needs_icarus
def test_verilog_computes_the_golden_vectors(exported):
    for one in products(exported)[::4]:
        folder = exported[0] / 'verilog' / operations.file_name(one.name)
        done = simulate(folder)
        outputs = min(4, len(one.vectors['output'])) * one.vectors['output'].shape[1]
        assert done.returncode == 0 and f'PASS: {outputs} outputs' in done.stdout, done.stdout


@needs_icarus
@pytest.mark.parametrize('file', ['weight', 'bias', 'multiplier', 'golden_inputs',
                                  'golden_outputs'])
def test_a_wrong_bit_makes_the_bench_fail(exported, tmp_path, file):
    one = next(p for p in products(exported) if 'bias' in p.constants)
    folder = exported[0] / 'verilog'
    copy = Path(shutil.copytree(folder, tmp_path / 'verilog')) / operations.file_name(one.name)
    path = copy / f'{file}.mem'
    lines = path.read_text().splitlines()
    # A high bit: a lowest one of a weight may well vanish in rounding.
    at = next(i for i, line in enumerate(lines) if set(line) != {'0'})
    lines[at] = f'{int(lines[at], 16) ^ 1 << (4 * len(lines[at]) - 2):0{len(lines[at])}x}'
    path.write_text('\n'.join(lines) + '\n')
    done = simulate(copy)
    assert done.returncode == 1 and 'FAIL: vector 0, output' in done.stdout, done.stdout
    path.unlink()  # unknown numbers are no right ones
    assert simulate(copy).returncode == 1


@needs_icarus
@pytest.mark.slow
def test_cocotb_computes_the_golden_vectors(exported, tmp_path):
    pytest.importorskip('cocotb', reason='cocotb is not installed')
    one = min(products(exported), key=lambda p: p.constants['weight'].size)
    folder = exported[0] / 'verilog' / operations.file_name(one.name)
    numbers = dict(re.findall(r'localparam (\w+) = (\w+);', (folder / 'layer.vh').read_text()))
    numbers.pop('VECTORS')
    golden = {'input_bits': 8, 'input': one.vectors['input'][:2].tolist(),
              'output': one.vectors['output'][:2].tolist()}
    (tmp_path / 'golden.json').write_text(json.dumps(golden))
    files = {'WEIGHTS': 'weight', 'BIASES': 'bias', 'MULTIPLIERS': 'multiplier'}
    program = f'''
from cocotb_tools.runner import get_runner
runner = get_runner('icarus')
runner.build(sources=[{str(folder.parent / 'multiply_shift_layer.v')!r}],
             hdl_toplevel='multiply_shift_layer', build_dir={str(tmp_path / 'build')!r},
             build_args=['-g2012'], parameters={{**{numbers!r}, **{{
                 key: f'"{folder}/{{name}}.mem"' for key, name in {files!r}.items()}}}})
runner.test(hdl_toplevel='multiply_shift_layer', test_module='cocotb_layer',
            results_xml={str(tmp_path / 'results.xml')!r})
'''

    def run():
        return subprocess.run(
            [sys.executable, '-c', program], capture_output=True, text=True,
            env=os.environ | {'GOLDEN': str(tmp_path / 'golden.json'),
                              'PYTHONPATH': str(Path(__file__).parent)})

    done = run()
    results = (tmp_path / 'results.xml').read_text()
    assert done.returncode == 0 and 'outputs_are_golden' in results, done.stdout + done.stderr
    assert '<failure' not in results, results
    golden['output'][1][-1] += 1
    (tmp_path / 'golden.json').write_text(json.dumps(golden))
    run()
    assert '<failure' in (tmp_path / 'results.xml').read_text()


def test_the_command(tiny_models, tmp_path, capsys):
    from PIL import Image
    (tmp_path / 'pictures').mkdir()
    Image.fromarray(samples()[0][1][0]).save(tmp_path / 'pictures' / 'a.png')
    out = tmp_path / 'out'
    arguments = ['compress', str(tiny_models['tiny-qwen2-vl']), str(out), '--recipe',
                 'fixed-point', '--images', str(tmp_path / 'pictures'), '--report',
                 str(tmp_path / 'report.json')]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert 'in float: nothing' in text and '0 codes at most' in text
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['operations']['product'] > 20 and report['accumulator_bits'] <= 32
    assert {path.name for path in out.iterdir()} == {
        'c', 'mem', 'verilog', 'golden.safetensors', 'integers.safetensors', 'manifest.json'}
    assert main(arguments) == 1
    assert 'exists' in capsys.readouterr().err


def test_what_can_not_be_exported(tiny_models, tmp_path, monkeypatch):
    model, recipe = tiny_models['tiny-llava-onevision'], everything()
    with pytest.raises(RequestError, match='at least one sample'):
        compress(model, tmp_path / 'out', recipe, [])
    with pytest.raises(ModelError, match='no such model folder'):
        compress(tmp_path / 'gone', tmp_path / 'out', recipe, samples())
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(RecipeError, match='exports: onnx needs .*pip install onnx'):
        compress(model, tmp_path / 'out', recipe, samples())
    assert not list(tmp_path.iterdir())
    (tmp_path / 'manifest.json').write_text('{}')
    with pytest.raises(RecipeError, match='format None'):
        check.check(tmp_path)
