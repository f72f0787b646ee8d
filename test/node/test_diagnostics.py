# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""/diagnostics: names, levels that mean something, one message a second."""

import shutil
import time

from node_client import until

from neuron_chunk_ros.node.model_loading import bundle_path

OK, WARN, ERROR, STALE = b'\x00', b'\x01', b'\x02', b'\x03'


def values(status):
    return {v.key: v.value for v in status.values}


def test_names_and_rate(client, vlm):
    def mine():
        return [at for at, m in client.diagnostics if m.status[0].name.startswith('vlm:')]
    before = len(mine())
    ticks = until(lambda: len(mine()) >= before + 4 and mine()[before:], 10.0, 'four messages')
    assert 2.7 < ticks[3] - ticks[0] < 3.5
    message = client.diagnostics[-1][1]
    assert message.header.stamp.sec > 0
    for part in ('storage', 'model', 'frames', 'memory'):
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


def _level(level):
    return lambda status: status.level == level
