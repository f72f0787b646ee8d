# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""launch/vlm.launch.py, run by launch itself; skipped where ROS 2's launch is not installed."""

import pytest


@pytest.mark.parametrize('cases', ['vlm', 'managed', 'respawn'])
def test_launch(run_cases, cases):
    run_cases(f'{cases}_launch_cases')


@pytest.mark.parametrize('arguments,says', [
    (['model:=/no/such/bundle'], "model '/no/such/bundle' is not a folder"),
    (['policy:=best'], "'policy' is 'best'"),
    (['sparsity:=2'], "'sparsity' is 2.0"),
    (['mode:=movie'], "'mode' is 'movie'"),
    (['cameras:=4th'], "'4th'"),
    (['sparsity:=much'], 'sparsity:=much is not a number'),
    (['autostart:=maybe'], 'autostart:=maybe is neither true nor false'),
    (['respawn:=often'], 'respawn:=often is neither true nor false'),
    (['params_file:=/no/such.yaml'], "parameter file '/no/such.yaml' is not there"),
    (['namespace:=arm-1'], 'namespace:=arm-1 is not letters, digits and _'),
    (['log_level:=loud'], 'log_level:=loud is none of debug,'),
    (['cameras:=front,,left'], 'cameras:=front,,left is not NAME or NAME=TOPIC'),
    (['cameras:=front', 'image:=/eye'], 'image:=/eye and cameras:=front exclude each other')])
def test_wrong_arguments_are_told_in_one_line(run_launch_file, arguments, says):
    output = run_launch_file('vlm.launch.py', arguments)
    telling, = (line for line in output.splitlines() if says in line)
    assert telling.count('FATAL') + telling.count('Caught exception in launch') == 1
    assert output.count('process started with pid') <= 1
