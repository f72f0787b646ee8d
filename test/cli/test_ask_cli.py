# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk ask: answers and one-line errors."""

import json

import numpy as np
import pytest
from PIL import Image

from neuron_chunk_ros.cli.main import main


@pytest.fixture(scope='module')
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp('pictures') / 'noise.png'
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return str(path)


def test_answers_with_its_bill(tiny_bundles, picture, capsys):
    bundle = str(tiny_bundles['tiny-qwen2-vl'])
    command = ['ask', bundle, 'what is this?', '--image', picture, '--max-new-tokens', '4']
    assert main([*command, '--policy', 'topk', '--sparsity', '0.5', '--json']) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer['tokens'] <= 4 and answer['io']['bytes_read'] > 0
    assert answer['steps'][0]['step'] == 'prefill' and len(answer['steps']) >= 1
    assert main(command) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2].startswith('[') and 'MB in' in out[-2] and 'rows 100%' in out[-2]
    assert 'tokens/s' in out[-1] and 'GB/s while reading (the drive: never measured' in out[-1]


@pytest.mark.parametrize('extra, message', [
    (['--image', '/nonexistent.png'], '/nonexistent.png: not a readable picture'),
    (['--deadline-ms', '5'], "'dense' reads everything and can't keep deadline_ms"),
    (['--memory-budget-mb', '1'], 'memory_budget_mb is 1'),
    (['--device', 'nonsense'], "device 'nonsense'"),
])
def test_errors_are_one_line(tiny_bundles, capsys, extra, message):
    assert main(['ask', str(tiny_bundles['tiny-llava-onevision']), 'what?', *extra]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith('neuron-chunk: error: ')
    assert message in error[0]


def test_a_bundle_that_does_not_exist(capsys):
    assert main(['ask', '/nonexistent', 'what?']) == 1
    assert '/nonexistent: no such bundle folder' in capsys.readouterr().err
