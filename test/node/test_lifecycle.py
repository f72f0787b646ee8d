# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The managed node: what each state offers, what each transition frees, and failing ones."""

import os
import signal

import psutil
import pytest
from node_client import VlmProcess, until

OK, WARN, ERROR = b'\x00', b'\x01', b'\x02'


@pytest.fixture
def managed(client):
    """Start a node that waits to be told: managed(name, **parameters)."""
    processes = []

    def start(name, **parameters):
        processes.append(VlmProcess(client, name, autostart=False, **parameters))
        processes[-1].wait_until_there()
        return processes[-1]

    yield start
    for process in processes:
        process.close()


def resident(vlm):
    """Return the node's resident memory [MiB]."""
    return psutil.Process(vlm.process.pid).memory_info().rss / 2**20


def test_through_all_states_and_back(client, managed, picture):
    vlm = managed('walker')
    assert vlm.state() == 'unconfigured'
    response = vlm.ask(images=[picture])
    assert 'unconfigured: it answers when it is active' in response.message
    assert not response.success
    assert not vlm.reset().success
    assert vlm.status('model', lambda s: 'unconfigured' in s.message).level == OK

    assert vlm.change_state('configure') and vlm.state() == 'inactive'
    assert client.node.count_subscribers('walker/image') == 0, 'inactive, it looks at nothing'
    assert 'inactive' in vlm.ask(images=[picture]).message
    assert vlm.status('model', lambda s: 'inactive' in s.message)

    for _ in range(3):
        assert vlm.change_state('activate') and vlm.state() == 'active'
        vlm.wait_until_ready()
        # Best effort: a frame may be lost before the subscription is known everywhere.
        until(lambda: vlm.show(picture) or vlm.ask().success, what='an answer about a frame')
        assert vlm.change_state('deactivate') and vlm.state() == 'inactive'
        until(lambda: client.node.count_subscribers('walker/image') == 0, 5.0, 'no subscription')
        assert not vlm.ask(images=[picture]).success

    # What a frame showed before is not what is there after.
    assert vlm.change_state('activate')
    vlm.wait_until_ready()
    assert 'no frame has come' in vlm.ask().message
    assert vlm.change_state('deactivate') and vlm.change_state('cleanup')
    assert vlm.state() == 'unconfigured'
    assert vlm.change_state('shutdown') and vlm.state() == 'finalized'


@pytest.mark.slow
def test_cleanup_frees_the_model(managed, large_bundle):
    vlm = managed('tidy', model=large_bundle, max_context=16384)
    assert vlm.change_state('configure') and vlm.change_state('cleanup')
    # What Python and torch load once stays; the model, its buffers and its cache don't.
    empty = resident(vlm)
    for _ in range(2):
        assert vlm.change_state('configure')
        held = float({v.key: v.value for v in vlm.status('memory').values}['total (MiB)'])
        loaded = resident(vlm)
        assert vlm.change_state('cleanup')
        assert 'freed' in vlm.process.output()
        # KV memory nobody has written to yet takes no pages.
        assert loaded - empty > 20 and resident(vlm) - empty < 8, (empty, loaded, resident(vlm))
        assert held > loaded - empty - 10


@pytest.fixture(scope='session')
def large_bundle(large_model, tmp_path_factory):
    """A bundle of 320 MB, 40 of them resident."""
    from neuron_chunk_ros.prepare.convert import convert
    folder = tmp_path_factory.mktemp('large_bundle') / 'bundle'
    convert(large_model, folder)
    return folder


@pytest.mark.slow
def test_a_transition_that_fails_says_why_and_can_be_repeated(managed, picture):
    vlm = managed('doubtful', model='/no/such/bundle')
    assert not vlm.change_state('configure')
    assert vlm.state() == 'unconfigured'
    status = vlm.status('model', lambda s: s.level == ERROR)
    assert '/no/such/bundle' in status.message
    assert '/no/such/bundle' in vlm.process.output() and 'Traceback' not in vlm.process.output()
    assert vlm.set(model='tabletop') == ''
    assert vlm.change_state('configure') and vlm.change_state('activate')
    vlm.wait_until_ready()
    assert vlm.ask(images=[picture]).success
    assert vlm.status('model', lambda s: s.level == OK)


@pytest.mark.slow
def test_transitions_that_are_not_possible_change_nothing(managed, picture):
    vlm = managed('stubborn')
    for transition in ('activate', 'deactivate', 'cleanup', 'somersault'):
        assert not vlm.change_state(transition), transition
        assert vlm.state() == 'unconfigured'
    # Two at once: one configures, the other is refused.
    both = [vlm.change_state_later('configure') for _ in range(2)]
    assert sorted(vlm.result(future).success for future in both) == [False, True]
    assert vlm.state() == 'inactive' and vlm.change_state('activate')
    vlm.wait_until_ready()
    assert vlm.ask(images=[picture]).success


@pytest.mark.slow
def test_the_state_can_be_asked_for_while_the_model_loads(managed):
    vlm = managed('loading')
    configuring = vlm.change_state_later('configure')
    states = []
    while not configuring.done():
        states.append(vlm.state())
        if 'loading model' in vlm.process.output() and not configuring.done():
            assert 'clean up first' in vlm.set(model='/elsewhere')
    # More than the one that may have been taken before the load began.
    assert states.count('configuring') > 2 and vlm.result(configuring).success
    assert 'loading model' in vlm.process.output()


@pytest.mark.slow
def test_what_is_fixed_while_configured_is_refused_with_the_cure(managed):
    vlm = managed('fixed')
    assert vlm.set(cameras=['front', 'left'], max_context=512, mode='stream') == ''
    assert vlm.change_state('configure')
    for name, value in (('model', '/elsewhere'), ('cameras', ['a']), ('max_context', 1024),
                        ('mode', 'snapshot'), ('window', 2)):
        assert 'clean up first' in vlm.set(**{name: value}), name
    assert vlm.set(queue_limit=3) != '' and vlm.set(autostart=True) != ''
    assert vlm.set(sparsity=0.25) == ''
    assert vlm.change_state('cleanup') and vlm.set(model='/elsewhere') == ''
    assert not vlm.change_state('configure')


@pytest.mark.slow
def test_deactivating_cancels_who_waits(managed, long_answers, picture):
    vlm = managed('abrupt', **long_answers)
    assert vlm.change_state('configure') and vlm.change_state('activate')
    vlm.wait_until_ready()
    waiting = [vlm.ask_later(images=[picture], max_new_tokens=3000) for _ in range(3)]
    vlm.wait_for_step(waiting[0])
    assert vlm.change_state('deactivate')  # 3000 words would take longer than it waits
    for future in waiting:
        response = vlm.result(future)
        assert not response.success and 'being deactivated' in response.message
    assert vlm.change_state('activate')
    vlm.wait_until_ready()
    assert vlm.ask(images=[picture], max_new_tokens=1).success


@pytest.mark.slow
@pytest.mark.parametrize('state', ['unconfigured', 'inactive'])
def test_ends_cleanly_in_every_state(managed, state):
    vlm = managed(f'ends_{state}')
    if state == 'inactive':
        assert vlm.change_state('configure')
    assert vlm.process.end(signal.SIGINT) == 0, vlm.process.output()
    assert 'Traceback' not in vlm.process.output()


@pytest.mark.slow
def test_a_killed_node_starts_again_clean(client, start, picture):
    vlm = start('phoenix', mode='stream')
    vlm.show(picture)
    until(lambda: any(step.step == 'append' for step in vlm.steps), what='a frame to go in')
    for _ in range(3):
        vlm.images.publish(picture)
    os.kill(vlm.process.pid, signal.SIGKILL)
    until(lambda: vlm.process.exit_code() is not None, what='the end')
    del vlm.steps[:]
    vlm.restart()
    # What the dead one offered lingers in the graph; only the new one publishes this.
    until(lambda: vlm.show(picture) or any(s.step == 'append' for s in vlm.steps), 30.0,
          'the new one to take frames')
    until(lambda: vlm.ask().success, 10.0, 'an answer')
    assert vlm.state() == 'active'
