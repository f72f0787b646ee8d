# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""/diagnostics: names, levels that mean something, one message a second."""

import dataclasses
import os
import shutil
import time
from types import SimpleNamespace

import pytest
from node_client import until

from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.engine.telemetry import Answer, StepTelemetry, Timing
from neuron_chunk_ros.node.diagnostics import statuses
from neuron_chunk_ros.node.loaded_model import bundle_path
from neuron_chunk_ros.node.parameters import PARAMETERS
from neuron_chunk_ros.node.tally import Tally
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.storage import profile_file
from neuron_chunk_ros.storage.device_facts import device_facts
from neuron_chunk_ros.storage.profile import PROFILE_JSON, Line, Profile
from neuron_chunk_ros.tabletop import shipped

LIMITS = SimpleNamespace(**{p.name: p.default for p in PARAMETERS})

OK, WARN, ERROR, STALE = b'\x00', b'\x01', b'\x02', b'\x03'


def values(status):
    return {v.key: v.value for v in status.values}


def test_names_and_rate(client, vlm):
    def mine():
        return [at for at, m in client.diagnostics if m.status[0].name.startswith('vlm:')]
    before = len(mine())
    ticks = until(lambda: len(mine()) >= before + 4 and mine()[before:], 10.0, 'four messages')
    assert 2.7 < ticks[3] - ticks[0] < 6.0  # once a second, on a busy machine too
    message = client.diagnostics[-1][1]
    assert message.header.stamp.sec > 0
    for part in ('storage', 'model', 'frames', 'memory', 'thermal', 'executor'):
        status = vlm.status(part)
        assert status.hardware_id and status.message
        assert len(values(status)) == len(status.values), 'keys must differ'


def test_frames_none_fresh_old(vlm, picture):
    vlm.reset()
    assert 'no frame has come on /vlm/image' in vlm.status('frames', _level(WARN)).message
    vlm.images.publish(picture)
    fresh = vlm.status('frames', _level(OK))
    assert values(fresh)['newest'] == f'{picture.width}x{picture.height} rgb8'
    assert 's old' in vlm.status('frames', _level(STALE)).message


def test_model_and_memory_tell_numbers(vlm, picture):
    assert vlm.ask(images=[picture]).success
    model = vlm.status('model', _level(OK))
    assert int(values(model)['answered']) >= 1 and values(model)['policy'] == 'dense'
    memory = values(vlm.status('memory', _level(OK)))
    assert float(memory['process now (MiB)']) > 50
    storage = vlm.status('storage', lambda s: s.level in (OK, WARN))
    assert float(values(storage)['read for the last answer (MB)']) > 0


def test_read_error_shows_until_the_next_good_answer(start, picture, tmp_path):
    bundle = shutil.copytree(bundle_path('tabletop'), tmp_path / 'bundle')
    flash = sorted(bundle.glob('flash-*.safetensors'))[0]
    vlm = start('unlucky', model=bundle)
    assert vlm.ask(images=[picture]).success
    whole = flash.read_bytes()
    # The card fails: the open file suddenly ends early.
    with flash.open('r+b') as file:
        file.truncate(4096)
    response = vlm.ask(images=[picture])
    assert not response.success
    assert 'reading from flash failed' in response.message and flash.name in response.message
    status = vlm.status('storage', _level(ERROR))
    assert status.message.startswith('read error:') and flash.name in status.message
    time.sleep(1.1)
    assert vlm.status('storage').level == ERROR
    with flash.open('r+b') as file:
        file.write(whole)
    response = vlm.ask(images=[picture])
    assert response.success, response.message
    assert vlm.status('storage').level in (OK, WARN)


def test_a_drive_that_goes_costs_precision_not_answers(start, picture, tmp_path):
    """Rows in two parts: coarse answers and ERROR while it is gone, fine ones by themselves."""
    bundle = convert(shipped.model_dir(), tmp_path / 'bundle', rows='int8', base=4)
    vlm = start('coarse', model=bundle.path)
    fine = vlm.ask(images=[picture]).answer
    assert fine.text and not fine.coarse and not fine.io.coarse
    whole = {name: (bundle.path / name).read_bytes()
             for name in {group.file for group in bundle.multiplied.values()}}
    for name in whole:
        os.truncate(bundle.path / name, 0)
    response = vlm.ask(images=[picture])
    assert response.success and response.answer.coarse and response.answer.io.coarse
    # Four bits of the shipped model know what this picture shows.
    assert response.answer.text.split()[0] == fine.text.split()[0]
    status = vlm.status('storage', _level(ERROR))
    assert status.message.startswith('read error:') and min(whole) in status.message
    assert 'answers go on with what is held' in vlm.process.output()
    for name, data in whole.items():
        (bundle.path / name).write_bytes(data)
    until(lambda: not vlm.ask(images=[picture]).answer.coarse, what='a fine answer')
    assert vlm.ask(images=[picture]).answer.text == fine.text
    assert vlm.status('storage', lambda status: status.level != ERROR)
    assert 'reading from flash works again' in vlm.process.output()


@pytest.mark.slow
def test_a_missing_profile_is_told_with_its_cure(start, tmp_path):
    bundle = shutil.copytree(bundle_path('tabletop'), tmp_path / 'bundle')
    vlm = start('unmeasured', model=bundle)
    status = vlm.status('storage', _level(WARN))
    assert f'no storage profile in {tmp_path}' in status.message
    assert f'neuron-chunk profile --path {bundle}' in status.message
    assert values(status)['profile'] == 'assumed'


@pytest.mark.slow
def test_a_profile_beside_the_bundle_is_used(start, picture, tmp_path):
    bundle = shutil.copytree(bundle_path('tabletop'), tmp_path / 'bundle')
    profile_file.save(_profile(tmp_path, direct_io=0), tmp_path / PROFILE_JSON)
    vlm = start('measured', model=bundle, io_backend='threads', direct_io='off')
    status = vlm.status('storage', _level(OK))
    assert values(status)['profile'] == 'measured 2026-01-02'
    assert values(status)['recent read time / profile'] == 'none yet'
    assert vlm.ask(images=[picture]).success
    asked = vlm.status('storage', lambda s: float(values(s)['read in all (MB)']) > 0)
    assert float(values(asked)['recent read time / profile']) > 0


@pytest.fixture
def measured(tmp_path):
    """Give a real session that reads as the profile in use says."""
    with Session.open(bundle_path('tabletop'), profile=_profile(tmp_path, direct_io=0),
                      backend='threads', direct='off') as session:
        yield session


def test_slow_reads_are_told_once_they_weigh_something(measured):
    def told(*answers):
        tally = Tally()
        for read, foretold in answers:
            step = StepTelemetry('answer', read_seconds=read, profile_seconds=foretold)
            tally.answered(Answer('', 1.0, 1, 'stop', Timing(), step, [step]), 1.0)
        return statuses.storage(tally.now(), measured, 'off', LIMITS)

    assert told().level == OK
    assert told((1.4, 1.0)).level == OK, 'within what a busy machine does'
    assert told((0.4, 0.1)).level == OK, 'too short to judge'
    slow = told(*[(0.4, 0.1)] * 5)
    assert slow.level == WARN and 'reads take 4.0 times as long as the storage' in slow.message
    assert slow.values['recent read time / profile'] == '4.00'
    assert told((9.0, 1.0), *[(1.0, 1.0)] * 9).level == WARN
    assert told((9.0, 1.0), *[(1.0, 1.0)] * 10).level == OK, 'ten answers later it is over'


def test_counts_of_slow_reads_are_forgotten_by_clear(measured):
    tally, step = Tally(), StepTelemetry('answer', read_seconds=3.0, profile_seconds=1.0)
    answer = Answer('', 1.0, 1, 'stop', Timing(), step, [step])
    tally.answered(answer, 1.0)
    assert statuses.storage(tally.now(), measured, 'off', LIMITS).level == WARN
    tally.clear()
    assert statuses.storage(tally.now(), measured, 'off', LIMITS).level == OK
    tally.answered(dataclasses.replace(answer, io=StepTelemetry('answer')), 1.0)
    assert statuses.storage(tally.now(), measured, 'off', LIMITS).level == OK


def test_a_profile_of_other_reads_is_told(tmp_path):
    with Session.open(bundle_path('tabletop'), profile=_profile(tmp_path, direct_io=1),
                      backend='threads', direct='off') as session:
        status = statuses.storage(Tally().now(), session, 'off', LIMITS)
    assert status.level == WARN
    assert 'measured with threads direct, reads go by threads buffered' in status.message
    assert '--backend threads --buffered' in status.message


def _profile(folder, direct_io):
    """Return a profile that says it was measured here, with threads."""
    line = Line(1e-5, 2.7e-7)
    return Profile(line, line, 256, 768, 6e-5, 'measured', about={
        **dataclasses.asdict(device_facts(folder)), 'backend': 'threads', 'direct_io': direct_io,
        'date': '2026-01-02'})


def _level(level):
    return lambda status: status.level == level
