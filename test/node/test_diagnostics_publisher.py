# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The publisher over real DDS; and the aggregator's analyzers, which sort what it publishes."""

import re
import threading
import time
from pathlib import Path

import pytest
import rclpy
import yaml
from node_client import until
from rclpy.executors import MultiThreadedExecutor
from rclpy.parameter import Parameter

from neuron_chunk_ros.node.diagnostics import ERROR, OK, STALE, WARN, Diagnostics, Status

ANALYZERS = Path(__file__).resolve().parents[2] / 'config' / 'diagnostic_analyzers.yaml'
# Parts with and without named cameras, as the node tells them.
PARTS = ('model', 'storage', 'memory', 'thermal', 'frames', 'frames front', 'frames rear_left',
         'executor')
NODES = ('vlm', 'vlm2', 'front_vlm', 'robot1/vlm', 'fleet/robot2/arm_vlm_1')


@pytest.fixture
def publish(client):
    """Start publishing: publish(tasks, ...) returns the Diagnostics, its node and executor."""
    running = []

    def start(tasks, name='vlm', namespace='', period=0.1, parameters=()):
        node = rclpy.create_node(name, namespace=namespace, parameter_overrides=list(parameters))
        executor = MultiThreadedExecutor(num_threads=4)
        executor.add_node(node)
        diagnostics = Diagnostics(node, period, tasks)
        ending = threading.Event()

        def spin():
            while not ending.is_set():
                executor.spin_once(timeout_sec=0.05)
        thread = threading.Thread(target=spin, daemon=True)
        thread.start()
        running.append((ending, thread, node))
        return diagnostics, node, executor

    yield start
    for ending, thread, node in running:
        ending.set()
        thread.join(5.0)
        node.destroy_node()


def message(client, accept, what='a message'):
    """Return the next message, as {name: status}, that is acceptable."""
    seen = len(client.diagnostics)

    def find():
        for _, array in client.diagnostics[seen:]:
            found = {status.name: status for status in array.status}
            assert len(found) == len(array.status), 'names must differ'
            if accept(found):
                return found, array
        return None
    return until(find, 10.0, what)


def test_statuses_arrive_as_they_were_told(client, publish):
    def tasks():
        return {'a part': lambda: Status(STALE, 'old', {'age (s)': 2.5, 'count': 3})}
    publish(tasks, name='teller')
    found, array = message(client, lambda m: 'teller: a part' in m)
    status = found['teller: a part']
    assert (status.level, status.message) == (STALE, 'old')
    assert {v.key: v.value for v in status.values} == {'age (s)': '2.5', 'count': '3'}
    assert status.hardware_id and array.header.stamp.sec > 0
    assert set(found) == {'teller: a part', 'teller: executor'}


def test_robots_can_be_told_apart(client, publish):
    for robot in ('robot1', 'robot2'):
        publish(lambda: {'storage': lambda: Status(OK, 'fine')}, namespace=robot)
    for robot in ('robot1', 'robot2'):
        message(client, lambda m, name=f'{robot}/vlm: storage': name in m)


def test_a_part_that_raises_silences_no_other(client, publish):
    def broken():
        raise OSError('no such\nfile')
    publish(lambda: {'broken': broken, 'whole': lambda: Status(OK, 'fine')}, name='teller')
    found, _ = message(client, lambda m: 'teller: broken' in m)
    assert found['teller: broken'].level == ERROR
    assert found['teller: broken'].message == 'no status: OSError: no such file'
    assert found['teller: whole'].level == OK


def test_parts_come_and_go(client, publish):
    parts = {'first': lambda: Status(OK, 'fine')}

    def tasks():
        if parts is None:
            raise RuntimeError('between two states')
        return parts
    publish(tasks, name='teller')
    message(client, lambda m: set(m) == {'teller: first', 'teller: executor'})
    parts = {'second': lambda: Status(OK, 'fine')}
    message(client, lambda m: set(m) == {'teller: second', 'teller: executor'})
    parts = None
    found, _ = message(client, lambda m: 'teller: model' in m)
    assert found['teller: model'].level == ERROR
    assert 'between two states' in found['teller: model'].message
    parts = {}
    message(client, lambda m: set(m) == {'teller: executor'})


def test_a_clock_that_stands_still_silences_nothing(client, publish):
    publish(dict, name='teller', parameters=[Parameter('use_sim_time', value=True)])
    message(client, lambda m: 'teller: executor' in m)


def test_an_executor_whose_threads_are_busy_is_told(client, publish):
    diagnostics, node, executor = publish(dict, name='teller')
    found, _ = message(client, lambda m: 'teller: executor' in m)
    assert found['teller: executor'].level == OK
    release, held = threading.Event(), []

    def hold():
        held.append(1)
        release.wait(10.0)
    for _ in range(4):
        executor.create_task(hold)
    until(lambda: len(held) == 4, 5.0, 'all threads to be held')
    time.sleep(0.7)
    assert diagnostics.executor_delay() > 0.5, 'told while it lasts'
    release.set()
    found, _ = message(client, lambda m: m.get('teller: executor', None) is not None
                       and m['teller: executor'].level == WARN)
    value, = found['teller: executor'].values
    assert value.key == 'executor delay, longest (ms)' and 500 < float(value.value) < 10_000
    message(client, lambda m: 'teller: executor' in m and m['teller: executor'].level == OK)


def analyzers():
    """Return the YAML's GenericAnalyzers by path; its structure is that of the documentation."""
    (node, content), = yaml.safe_load(ANALYZERS.read_text()).items()
    assert node == 'analyzers', "the aggregator's node is called so"
    (_, group), = content['ros__parameters'].items()
    assert group['type'] == 'diagnostic_aggregator/AnalyzerGroup' and group['path'] == 'VLM'
    assert set(group) == {'type', 'path', 'analyzers'}
    for analyzer in group['analyzers'].values():
        assert analyzer['type'] == 'diagnostic_aggregator/GenericAnalyzer'
        assert set(analyzer) - {'discard_stale'} == {'type', 'path', 'regex', 'timeout'}
    found = {analyzer['path']: analyzer for analyzer in group['analyzers'].values()}
    assert len(found) == len(group['analyzers'])
    return found


def matching(name):
    """Return the paths of the analyzers that take this name, by the aggregator's rule: all of it.

    The expressions are of the kind on which C++ and Python agree.
    """
    return [path for path, analyzer in analyzers().items()
            if any(re.fullmatch(expression, name) for expression in analyzer['regex'])]


@pytest.mark.parametrize('node', NODES)
@pytest.mark.parametrize('part', PARTS)
def test_each_status_has_one_analyzer(node, part):
    assert matching(f'{node}: {part}') == [part.split()[0].capitalize()]


def test_each_analyzer_has_a_status():
    assert set(analyzers()) == {part.split()[0].capitalize() for part in PARTS}


@pytest.mark.parametrize('name', [
    'joy_node: Joystick Driver Status', 'camera: frames', 'cpu_monitor: thermal', 'storage',
    '/arms/left/motor', 'vlm/camera_driver: frames', 'disk: storage', 'vlm_node: frames_dropped',
    'vlm: models', 'vlm', 'vlm: storage: vlm: storage: more'])
def test_others_are_left_to_others(name):
    assert matching(name) == []


def test_what_a_robot_publishes_is_matched(client, publish):
    publish(lambda: {part: lambda: Status(OK, 'fine') for part in PARTS}, namespace='robot9')
    found, _ = message(client, lambda m: 'robot9/vlm: model' in m)
    assert len(found) == len(PARTS)
    assert all(len(matching(name)) == 1 for name in found)


def test_ros_reads_the_file_with_the_types_the_aggregator_wants():
    context = rclpy.Context()
    rclpy.init(args=['--ros-args', '--params-file', str(ANALYZERS)], context=context)
    node = rclpy.create_node('analyzers', context=context,
                             automatically_declare_parameters_from_overrides=True)
    try:
        kinds = {name.rpartition('.')[2]: set() for name in node.get_parameters_by_prefix('vlm')}
        for name, parameter in node.get_parameters_by_prefix('vlm').items():
            kinds[name.rpartition('.')[2]].add(parameter.type_)
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    kind = Parameter.Type
    assert kinds == {'type': {kind.STRING}, 'path': {kind.STRING}, 'regex': {kind.STRING_ARRAY},
                     'timeout': {kind.DOUBLE}, 'discard_stale': {kind.BOOL}}


def test_an_analyzer_outlives_two_messages_of_the_node():
    from neuron_chunk_ros.node.parameters import PARAMETERS
    period, = (p.default for p in PARAMETERS if p.name == 'diagnostics_period')
    assert all(analyzer['timeout'] > 2 * period for analyzer in analyzers().values())
