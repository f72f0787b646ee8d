# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Two robots and an operator on three computers: own networks, one switch, real DDS between."""

import contextlib
import json
import subprocess
import time
from pathlib import Path

import pytest
from fleet_network import Computer, Switch, Unavailable

from neuron_chunk_ros.programs.demo.scene_stream import nth_scene
from neuron_chunk_ros.tabletop.questions import NUMBERS

pytestmark = pytest.mark.slow

# Nothing leads out of the switch, so any domain will do, and discovery may use all of the subnet.
ENVIRONMENT = {'ROS_DOMAIN_ID': '0', 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET',
               'ROS_LOCALHOST_ONLY': '0', 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'}
# Seeds of the scenes the robots' cameras show; the numbers of things in them differ.
SEEDS = {'robot1': 1, 'robot2': 2}
HOW_MANY = 'how many things are there?'
PATIENCE = 60.0


class Fleet:
    """Two robots, each a camera and a vlm node, and an operator that asks them."""

    def __init__(self, stack, logs):
        self.logs = logs
        self.switch = stack.enter_context(Switch())
        computers = {}
        for number, name in enumerate((*SEEDS, 'operator'), 1):
            computers[name] = stack.enter_context(Computer())
            self.switch.connect(name, computers[name], f'10.0.0.{number}')
        for robot, seed in SEEDS.items():
            self._start(computers[robot], f'{robot}-camera', [
                '-m', 'neuron_chunk_ros.programs.demo.tabletop_publisher', '--ros-args', '-r',
                f'__ns:=/{robot}', '-p', f'seed:={seed}', '-p', 'scene_period:=0.0',
                '-p', f'frame_id:={robot}_camera'])
            self._start(computers[robot], f'{robot}-vlm', [
                '-m', 'neuron_chunk_ros.node.main', '--ros-args', '-r', f'__ns:=/{robot}'])
        self._operator = self._start(
            computers['operator'], 'operator', [str(Path(__file__).with_name('fleet_client.py'))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _start(self, computer, name, arguments, **options):
        with open(self.logs / f'{name}.log', 'wb') as log:
            return computer.start_python(
                arguments, ENVIRONMENT,
                **{'stdin': subprocess.DEVNULL, 'stdout': log, 'stderr': log, **options})

    def output(self):
        """Return the last lines of what the processes printed."""
        return '\n'.join(f'{log.stem}: {line}' for log in sorted(self.logs.iterdir())
                         for line in log.read_text(errors='replace').splitlines()[-8:])

    def ask(self, *robots, timeout=PATIENCE):
        """Ask the robots at the same time; return {robot: answer, None where none came}."""
        order = {'ask': dict.fromkeys(robots, HOW_MANY), 'timeout': timeout}
        self._operator.stdin.write(json.dumps(order) + '\n')
        self._operator.stdin.flush()
        line = self._operator.stdout.readline()
        assert line, f'the operator died:\n{self.output()}'
        return json.loads(line)

    def wait_until_ready(self):
        """Block until both robots have a frame to answer about."""
        limit = time.monotonic() + PATIENCE
        while None in (answers := self.ask(*SEEDS)).values() or not all(
                answer['success'] for answer in answers.values()):
            assert time.monotonic() < limit, f'{answers}\n{self.output()}'
            time.sleep(0.2)


@pytest.fixture(scope='module')
def fleet(tmp_path_factory):
    """The fleet, ready to answer."""
    with contextlib.ExitStack() as stack:
        try:
            fleet = Fleet(stack, tmp_path_factory.mktemp('fleet'))
        except Unavailable as reason:
            pytest.skip(f'needs network namespaces (root, iproute2, util-linux): {reason}')
        fleet.wait_until_ready()
        yield fleet


def right(robot):
    """Return the answer that is right for this robot's camera, and for no other's."""
    things = {robot: len(nth_scene(seed, 0).things) for robot, seed in SEEDS.items()}
    assert len(set(things.values())) == len(things)
    return {'success': True, 'message': '', 'text': NUMBERS[things[robot]],
            'frames': [f'{robot}_camera'] * 2}


def test_each_robot_answers_for_its_own_camera(fleet):
    for robot in SEEDS:
        assert fleet.ask(robot) == {robot: right(robot)}
    for _ in range(5):
        assert fleet.ask(*SEEDS) == {robot: right(robot) for robot in SEEDS}


def test_a_robot_out_of_reach_is_back_with_its_link(fleet):
    # It is the network that carries the answers, not memory that all share in fact.
    fleet.switch.plug('robot1', False)
    try:
        assert fleet.ask(*SEEDS, timeout=4.0) == {'robot1': None, 'robot2': right('robot2')}
    finally:
        fleet.switch.plug('robot1', True)
    assert fleet.ask(*SEEDS, timeout=15.0) == {robot: right(robot) for robot in SEEDS}
