# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Launch files run for real: launch_testing's cases in this process, bad arguments in another."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuron_chunk_ros.programs.private_domain import private_environment

HERE = Path(__file__).resolve().parent
# What `ros2 launch FILE NAME:=VALUE...` does, without the ros2 command.
ROS2_LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]),
    launch_arguments=[argument.split(':=', 1) for argument in sys.argv[2:]])]))
sys.exit(service.run())
"""


@pytest.fixture(scope='session')
def installed():
    """Skip where launch, or the node it should start, is not there."""
    for module in ('launch_testing', 'launch_ros'):
        pytest.importorskip(
            module, reason=f'{module} is not installed (it comes with apt ROS 2)')
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix
    try:
        prefix = Path(get_package_prefix('neuron_chunk_ros'))
    except PackageNotFoundError:
        prefix = None
    if prefix is None or not (prefix / 'lib/neuron_chunk_ros/vlm_node').exists():
        pytest.skip('launch finds no vlm_node: build with colcon and source install/setup.bash')


@pytest.fixture
def run_cases(installed, monkeypatch):
    """Give a function that runs a file of launch_testing cases and fails where one fails."""
    from launch_testing.loader import LoadTestsFromPythonModule
    from launch_testing.test_runner import LaunchTestRunner

    for name, value in private_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(HERE))

    def run(name):
        spec = importlib.util.spec_from_file_location(name, HERE / f'{name}.py')
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        runner = LaunchTestRunner(test_runs=LoadTestsFromPythonModule(module, name=name))
        runner.validate()
        results = runner.run()
        assert results
        for case, result in results.items():
            problems = [text for _, text in (*result.errors, *result.failures)]
            assert result.wasSuccessful(), f'{case}:\n' + '\n'.join(problems)
            assert result.testsRun >= 2
    return run


@pytest.fixture
def run_launch_file(installed):
    """Give a function that runs a launch file to its end and returns all that it printed."""
    def run(name, arguments):
        done = subprocess.run(
            [sys.executable, '-c', ROS2_LAUNCH, str(HERE.parents[1] / 'launch' / name),
             *arguments], capture_output=True, text=True, timeout=120,
            env={**os.environ, **private_environment()}, check=False)
        return done.stdout + done.stderr
    return run
