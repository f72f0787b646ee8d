# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""launch/fleet.launch.py, run by launch itself; skipped where ROS 2's launch is not installed."""

import pytest


def test_launch(run_cases):
    run_cases('fleet_launch_cases')


@pytest.mark.parametrize('arguments,says', [
    ([], "missing required argument 'robots'"),
    (['robots:=robot1,robot1'], "names 'robot1' twice"),
    (['robots:=robot1,'], "names a robot ''"),
    (['robots:=robot1,2nd'], "names a robot '2nd'"),
    (['robots:=robot1,robot2', 'image:=/eye'], 'image:=/eye is one topic for all robots'),
    (['robots:=robot1,robot2', 'params_dir:=/no'],
     "parameter file '/no/robot1.yaml' is not there"),
    (['robots:=robot1,robot2', 'sparsity:=much'], 'sparsity:=much is not a number')])
def test_wrong_arguments_are_told_in_one_line(run_launch_file, arguments, says):
    output = run_launch_file('fleet.launch.py', arguments)
    telling, = (line for line in output.splitlines() if says in line)
    assert 'Caught exception in launch' in telling
    assert 'process started with pid' not in output
