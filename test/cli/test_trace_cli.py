# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk trace: events that add up to the bill."""

import json

import pytest

from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.storage.bundle import Bundle


@pytest.mark.parametrize('kind', ['append', 'prefill', 'decode'])
def test_the_timeline_is_the_steps(tiny_bundles, tmp_path, capsys, kind):
    out = tmp_path / 'trace.json'
    assert main(['trace', str(tiny_bundles['tiny-llava-onevision']), '--step', kind,
                 '--policy', 'topk', '--sparsity', '0.5', '--out', str(out)]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith(f'{out}: {kind} of ') and 'tokens/s' in line
    trace = json.loads(out.read_text())
    events = [event for event in trace['traceEvents'] if event['ph'] == 'X']
    assert {'choose', 'read', 'wait', 'multiply'} == {event['name'] for event in events}
    assert trace['otherData']['step'] == kind
    whole = trace['otherData']['seconds'] * 1e6
    computing = [event for event in events if event['name'] != 'read']
    for event, following in zip(computing, computing[1:], strict=False):
        assert event['dur'] >= 0
        # One thing at a time: what chooses, waits and multiplies is one thread.
        assert event['ts'] + event['dur'] <= following['ts'] + 1
    assert computing[-1]['ts'] + computing[-1]['dur'] - computing[0]['ts'] <= whole
    bundle = Bundle.open(tiny_bundles['tiny-llava-onevision'])
    wanted = bundle.groups if kind == 'append' else bundle.multiplied
    assert {event['args']['group'] for event in events} - {'embedding'} == set(wanted)


def test_errors_are_one_line(tiny_bundles, capsys, tmp_path):
    bundle = str(tiny_bundles['tiny-llava-onevision'])
    for extra in (['--image', '/nonexistent.png'], ['--deadline-ms', '5'],
                  ['--out', str(tmp_path / 'gone' / 'trace.json')]):
        assert main(['trace', bundle, *extra]) == 1
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and error[0].startswith('neuron-chunk: error: ')
