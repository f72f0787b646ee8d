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
    assert main(['tabletop', 'eval', '--per-type', '1', '--blank']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ['type', 'exact', 'match', 'blank', 'image']
    assert len(lines) == 1 + 6 + 1 + 3 + 1
    assert main(['tabletop', 'eval', '--per-type', '1', '--json']) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report['scores']) == 9 and report['per_type'] == 1
    assert main(['tabletop', 'eval', '--model', '/nonexistent']) == 1
    assert 'neuron-chunk: error: /nonexistent' in capsys.readouterr().err


def test_drawn_questions_are_those_of_the_evaluation(tmp_path, capsys):
    from neuron_chunk_ros.compress.exam import Exam
    folder = tmp_path / 'world'
    assert main(['tabletop', 'draw', str(folder), '--per-type', '1', '--seed', '3']) == 0
    assert '9 questions' in capsys.readouterr().out
    exam = Exam.load(folder / 'questions.jsonl')
    kinds = [question.type for question in exam.questions]
    assert len(kinds) == len(set(kinds)) == 9
    assert {len(question.images) for question in exam.questions[:6]} == {1}
    from neuron_chunk_ros.engine.session import Session
    from neuron_chunk_ros.tabletop import evaluation, shipped
    with Session.open(shipped.bundle_dir(tmp_path / 'bundle')) as session:
        exam.ask(lambda prompt, images: session.ask(prompt, images).text, after=False)
    scores = evaluation.exact_match(shipped.model_dir(), 1, 3)
    assert exam.answers.shares(exam.answers.before) == scores
    assert main(['tabletop', 'draw', str(folder)]) == 1
    assert 'exists already' in capsys.readouterr().err
