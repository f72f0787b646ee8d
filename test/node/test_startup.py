# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How the node starts, refuses to start, and ends; always as a real process."""

import json
import shutil
import signal
import sys
import threading
import time

import pytest
from node_client import until

from neuron_chunk_ros.node.loaded_model import bundle_path
from neuron_chunk_ros.node.main import _Signals
from neuron_chunk_ros.programs.child_process import ChildProcess


def ended(*arguments):
    """Start a node that is expected to end by itself; return its exit code and output."""
    with ChildProcess('neuron_chunk_ros.node.main', list(arguments), {}) as process:
        until(lambda: process.exit_code() is not None, what='the node to end')
        return process.exit_code(), process.output()


def refused(*arguments):
    """Check that the node ends with one clear line, and return that line."""
    code, output = ended(*arguments)
    assert code == 1, output
    assert 'Traceback' not in output
    # The tests' own node may have the same name.
    lines = [line for line in output.splitlines()
             if 'loading model' not in line and 'another node is called' not in line]
    assert len(lines) == 1 and '[FATAL]' in lines[0], output
    return lines[0]


def test_bundle_path_that_does_not_exist():
    line = refused('-p', 'model:=/no/such/bundle')
    assert '/no/such/bundle' in line and 'neuron-chunk convert' in line


def test_folder_that_is_no_bundle(tmp_path):
    assert 'bundle.json' in refused('-p', f'model:={tmp_path}')


def test_hugging_face_folder_is_told_to_be_converted(tmp_path):
    (tmp_path / 'config.json').write_text('{}')
    line = refused('-p', f'model:={tmp_path}')
    assert f'neuron-chunk convert {tmp_path}' in line


@pytest.fixture
def bundle_copy(tmp_path):
    """A copy of the tabletop bundle that a test may damage."""
    return shutil.copytree(bundle_path('tabletop'), tmp_path / 'bundle')


@pytest.mark.slow
def test_truncated_flash_file(bundle_copy):
    flash = next(bundle_copy.glob('flash-*.safetensors'))
    with flash.open('r+b') as file:
        file.truncate(flash.stat().st_size // 2)
    assert flash.name in refused('-p', f'model:={bundle_copy}')


@pytest.mark.slow
@pytest.mark.parametrize('damage', ['{', '[]', '{"format": "neuron-chunk-bundle", "version": 99}'])
def test_damaged_bundle_json(bundle_copy, damage):
    (bundle_copy / 'bundle.json').write_text(damage)
    assert 'bundle.json' in refused('-p', f'model:={bundle_copy}')


@pytest.mark.slow
def test_bundle_that_names_a_file_outside(bundle_copy):
    path = bundle_copy / 'bundle.json'
    content = json.loads(path.read_text())
    content['groups'][0]['file'] = '../' + content['groups'][0]['file']
    path.write_text(json.dumps(content))
    refused('-p', f'model:={bundle_copy}')


def test_budget_that_can_not_hold_the_model():
    assert 'MB' in refused('-p', 'memory_budget_mb:=1')


@pytest.mark.slow
@pytest.mark.parametrize('given,says', [
    ('sparsity:=0.99', "'sparsity' is 0.99, must be a number"),
    ('sparsity:=1', "'sparsity' is 1, must be a number"),
    ('policy:=best', "'policy' is 'best', must be one of dense, topk, greedy"),
    ('direct_io:=perhaps', 'must be one of auto, on, off'),
    ('max_new_tokens:=0', "'max_new_tokens' is 0, must be an integer from 1 to 4096"),
    ('queue_limit:=65', 'from 1 to 64'),
    ("model:=''", "'model' is '', must be a string"),
    ('qos_overrides./image.subscription.reliability:=perhaps', 'perhaps')])
def test_wrong_parameters(given, says):
    assert says in refused('-p', given)


def test_parameter_file_that_does_not_exist():
    code, output = ended('--params-file', '/no/such.yaml')
    assert code == 1 and '/no/such.yaml' in output and 'Traceback' not in output


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('busy', [False, True], ids=['idle', 'answering'])
def test_signals_end_it_cleanly(client, start, number, busy, long_answers, picture):
    vlm = start(f'ends_{number.name}_{busy}'.lower(), **long_answers)
    waiting = [vlm.ask_later(images=[picture], max_new_tokens=3000)
               for _ in range(3 * busy)]
    if busy:
        vlm.wait_for_step(waiting[0])
    assert vlm.process.end(number) == 0, vlm.process.output()
    assert 'Traceback' not in vlm.process.output()
    assert 'never retrieved' not in vlm.process.output()
    for future in waiting:
        response = vlm.result(future)
        assert not response.success and 'shutting down' in response.message
    # A node that leaves without a word is believed alive for 20 seconds.
    until(lambda: vlm.name not in client.node.get_node_names(), 5.0, 'the node to be gone')


def test_what_was_sent_before_the_end_is_answered(client, start, long_answers, picture):
    # Far more than the executor takes at once: most are with the middleware when the signal comes.
    vlm = start('ends_with_a_crowd', **long_answers)
    waiting = [vlm.ask_later(images=[picture], max_new_tokens=3000) for _ in range(60)]
    vlm.wait_for_step(waiting[0])
    assert vlm.process.end(signal.SIGINT) == 0, vlm.process.output()
    told = [vlm.result(future).message for future in waiting]
    assert all('shutting down' in line or 'waiting already' in line for line in told), set(told)
    assert sum('shutting down' in line for line in told) >= 2


@pytest.mark.slow
@pytest.mark.parametrize('text', ['loading model', 'ready'])
@pytest.mark.parametrize('later', [0.0, 0.1, 0.4, 1.0])
def test_a_signal_at_any_moment_of_its_start_ends_it_cleanly(text, later):
    with ChildProcess('neuron_chunk_ros.node.main', [], {}) as process:
        until(lambda: text in process.output(), what='the node to start')
        time.sleep(later)
        assert process.end(signal.SIGTERM) == 0, process.output()
        assert 'Traceback' not in process.output()


@pytest.fixture
def handlers():
    """Put the signals' handlers back."""
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGALRM
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_signal_at_any_moment_of_waiting_ends_it(handlers):
    """Python's last steps before it waits are interrupted too: no lock may be held there."""
    def late(*_):
        raise AssertionError(f'the signal at step {moment} of waiting ended nothing')

    def step(frame, event, _):
        nonlocal steps, waited
        frame.f_trace_opcodes = True
        steps += event == 'opcode'
        if steps == moment:
            sys.settrace(None)
            waited = helper.finished.is_set()
            signal.raise_signal(signal.SIGTERM)
        return step

    signal.signal(signal.SIGALRM, late)
    moment, waited = 0, False
    while not waited:
        signals, steps, moment = _Signals(), 0, moment + 1
        signal.setitimer(signal.ITIMER_REAL, 2.0)
        helper = threading.Timer(0.2, signals.stop)  # for the moments after it has waited
        helper.start()
        sys.settrace(step)
        try:
            signals.wait()
        finally:
            sys.settrace(None)
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        assert waited or not helper.finished.is_set(), f'waited on after a signal at {moment}'
        helper.cancel()
    assert moment > 1




@pytest.mark.slow
@pytest.mark.parametrize('given', ['off', '"off"'])
def test_direct_io_off_survives_yaml(start, given, picture):
    # YAML reads a bare off as false.
    vlm = start('yaml_' + ''.join(c for c in given if c.isalpha()) + str(len(given)),
                direct_io=given)
    response = vlm.ask(images=[picture])
    assert response.success, response.message
    assert response.answer.io.direct_io is False
