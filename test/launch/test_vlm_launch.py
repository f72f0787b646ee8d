# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""launch/vlm.launch.py, run by launch itself; skipped where ROS 2's launch is not installed."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
launch_testing = pytest.importorskip(
    'launch_testing', reason='launch_testing is not installed (it comes with apt ROS 2)')
pytest.importorskip('launch_ros', reason='launch_ros is not installed (it comes with apt ROS 2)')


def executable():
    """Return where launch finds the node's executable, None where it doesn't."""
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix
    try:
        path = Path(get_package_prefix('neuron_chunk_ros')) / 'lib/neuron_chunk_ros/vlm_node'
    except PackageNotFoundError:
        return None
    return path if path.exists() else None


needs_install = pytest.mark.skipif(
    executable() is None,
    reason='launch finds no vlm_node: build with colcon and source install/setup.bash')


@needs_install
def test_launch_file(monkeypatch):
    """Run every case of vlm_launch_cases.py through launch_testing."""
    from launch_testing.loader import LoadTestsFromPythonModule
    from launch_testing.test_runner import LaunchTestRunner

    from neuron_chunk_ros.node.demo.private_domain import private_environment
    for name, value in private_environment().items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location(
        'vlm_launch_cases', HERE / 'vlm_launch_cases.py')
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'vlm_launch_cases', module)
    spec.loader.exec_module(module)
    runs = LoadTestsFromPythonModule(module, name='vlm_launch_cases')
    assert len(runs) == len(module.CASES)
    runner = LaunchTestRunner(test_runs=runs)
    runner.validate()
    results = runner.run()
    for run, result in results.items():
        problems = [text for _, text in (*result.errors, *result.failures)]
        assert result.wasSuccessful(), f'{run}:\n' + '\n'.join(problems)
        assert result.testsRun == 2


def run_ros2_launch(arguments):
    """Run the launch file to its end in a process; return its output."""
    import subprocess

    from neuron_chunk_ros.node.demo.private_domain import private_environment
    code = ('import sys; from launch import LaunchDescription, LaunchService; '
            'from launch.actions import IncludeLaunchDescription; '
            'from launch.launch_description_sources import PythonLaunchDescriptionSource; '
            'service = LaunchService(); '
            'service.include_launch_description(LaunchDescription([IncludeLaunchDescription('
            'PythonLaunchDescriptionSource(sys.argv[1]), '
            "launch_arguments=[a.split(':=') for a in sys.argv[2:]])])); "
            'sys.exit(service.run())')
    launch_file = HERE.parents[1] / 'launch' / 'vlm.launch.py'
    done = subprocess.run(
        [sys.executable, '-c', code, str(launch_file), *arguments], capture_output=True,
        text=True, timeout=120, env={**os.environ, **private_environment()})
    return done.stdout + done.stderr


@needs_install
@pytest.mark.parametrize('arguments,says', [
    (['model:=/no/such/bundle'], "model '/no/such/bundle' is not a folder"),
    (['policy:=best'], "'policy' is 'best'"),
    (['sparsity:=2'], "'sparsity' is 2.0"),
    (['sparsity:=much'], 'sparsity:=much is not a number')])
def test_wrong_arguments_are_told_and_nothing_respawns(arguments, says):
    output = run_ros2_launch(arguments)
    assert says in output
    assert output.count('process started with pid') <= 1
