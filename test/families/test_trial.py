# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A template or tokenizer that has been tried is not tried again, any other one is."""

import pytest

from neuron_chunk_ros.families import trial

MESSAGES = [[{'role': 'user', 'content': 'what?'}]]


@pytest.fixture
def children(monkeypatch):
    """Give the tasks of the processes that are started, with nothing remembered."""
    tasks, run = [], trial._run
    monkeypatch.setattr(trial, '_run', lambda task: tasks.append(task) or run(task))
    monkeypatch.setattr(trial, '_tried', {})
    return tasks


def render(template, seconds=5.0):
    return trial.render(template, {}, MESSAGES, 0, seconds)


def test_the_same_template_once(children):
    template = '{{ messages[0].content }}{{ 1 + 1 }}'
    assert render(template) == render(template) == ['what?2']
    assert len(children) == 1
    assert render(template + '!') == ['what?2!']
    assert render(template, seconds=4.0) == ['what?2']  # another bound
    assert len(children) == 3


def test_what_fails_or_tells_the_time_is_run_each_time(children):
    for _ in range(2):
        with pytest.raises(trial.TrialError, match='no such thing'):
            render('{{ raise_exception("no such thing") }}')
        assert len(render('{{ strftime_now("%Y") }}')[0]) == 4
    assert len(children) == 4


def test_a_tokenizer_is_known_by_its_bytes(children, tiny_models, tmp_path):
    file = tiny_models['tiny-qwen2-vl'] / 'tokenizer.json'
    other = tmp_path / 'tokenizer.json'
    other.write_bytes(file.read_bytes())
    trial.try_tokenizer(file, 5.0)
    trial.try_tokenizer(other, 5.0)
    assert len(children) == 1
    other.write_bytes(b'{}')
    for _ in range(2):
        with pytest.raises(trial.TrialError):
            trial.try_tokenizer(other, 5.0)
    assert len(children) == 3
