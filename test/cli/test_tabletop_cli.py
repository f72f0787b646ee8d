# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk tabletop: training that stops and goes on, scores for people and programs."""

import json
import os
import signal
import subprocess
import sys

import pytest

from neuron_chunk_ros.cli.main import main

COMMAND = [sys.executable, '-m', 'neuron_chunk_ros.cli.main', 'tabletop']


@pytest.mark.slow
def test_training_stopped_by_ctrl_c_is_saved_and_goes_on(tmp_path):
    saved = []
    for _ in range(2):
        process = subprocess.Popen([*COMMAND, 'train', str(tmp_path), '--threads', '1'],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, 'PYTHONUNBUFFERED': '1'})
        # The bar is drawn from the first step on.
        shown = ''
        while 'patch=' not in shown:
            shown += process.stderr.read(1)
            assert process.poll() is None, shown
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 130
        assert 'stopped and saved at step' in out and out.count('\n') == 1
        saved.append(json.loads((tmp_path / 'state.json').read_text())['step'])
    assert 1 <= saved[0] < saved[1]


def test_evaluation_prints_a_table(capsys):
    assert main(['tabletop', 'eval', '--per-type', '4', '--blank']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ['type', 'exact', 'match', 'blank', 'image']
    assert len(lines) == 1 + 6 + 1 + 3 + 1
    assert main(['tabletop', 'eval', '--per-type', '2', '--json']) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report['scores']) == 9 and report['per_type'] == 2
    assert main(['tabletop', 'eval', '--model', '/nonexistent']) == 1
    assert 'neuron-chunk: error: /nonexistent' in capsys.readouterr().err
