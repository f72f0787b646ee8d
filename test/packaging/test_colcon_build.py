# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A plain `colcon build` of a clean copy of the checkout, and what its setup.bash offers."""

import json
import os
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXECUTABLES = ('neuron-chunk', 'neuron_chunk_demo', 'tabletop_publisher', 'vlm_node')


@pytest.fixture(scope='module')
def workspace(copy_checkout, build_environment, run, tmp_path_factory):
    """Give a workspace in which `colcon build` ran."""
    colcon = shutil.which('colcon', path=build_environment['PATH'])
    if colcon is None:
        pytest.skip('colcon is not installed (requirements/dev.txt)')
    workspace = tmp_path_factory.mktemp('workspace')
    copy_checkout(workspace / 'src' / 'neuron_chunk_ros')
    run(colcon, 'build', cwd=workspace, env=build_environment)
    return workspace


@pytest.fixture(scope='module')
def shell(workspace, build_environment, run):
    """Give a function that runs a command line in a new shell that sourced setup.bash."""
    # An outer ROS workspace could stand in for what this one lacks.
    environment = {**build_environment, 'LD_LIBRARY_PATH': os.environ.get('LD_LIBRARY_PATH', '')}

    def run_line(line):
        sourced = f'. {workspace}/install/setup.bash && cd / && {line}'
        return run('bash', '-c', sourced, env=environment)
    return run_line


@pytest.fixture(scope='module')
def report(shell):
    """Give what report_install.py finds in the workspace's environment."""
    output = shell(f'python3 {Path(__file__).with_name("report_install.py")}')
    return json.loads(output.splitlines()[-1])


def test_modules_come_from_the_workspace(workspace, report):
    install = f'{workspace}/install/'
    for part in ('native', 'interfaces', 'share', 'interfaces_share'):
        assert report[part].startswith(install), part


def test_an_answer_travels_with_the_workspaces_libraries(report):
    assert report['travelled'] is True


def test_share_holds_manifest_launch_and_config(report, checkout_files):
    share = Path(report['share'])
    assert (share / 'package.xml').is_file()
    for folder, pattern in (('launch', '*.launch.py'), ('config', '*.yaml')):
        expected = {path.name for path in checkout_files
                    if path.parts[0] == folder and path.match(pattern)}
        assert expected
        if folder == 'config':
            expected.add('large_messages.xml')
        assert {path.name for path in (share / folder).iterdir()} == expected


def test_share_holds_the_interface_definitions(report, checkout_files):
    share = Path(report['interfaces_share'])
    definitions = [path for path in checkout_files if path.suffix in ('.msg', '.srv', '.action')]
    assert len(definitions) >= 5
    for path in definitions:
        assert (share / path.parent.name / path.name).is_file(), path


def test_the_shipped_model_is_installed(report, checkout_files):
    shipped = [path for path in checkout_files if 'tabletop/model/' in path.as_posix()]
    for path in shipped:
        assert Path(report['tabletop'], 'model', path.name).is_file(), path


def test_executables_are_where_ros2_run_looks(workspace):
    folder = workspace / 'install' / 'neuron_chunk_ros' / 'lib' / 'neuron_chunk_ros'
    assert sorted(path.name for path in folder.iterdir()) == sorted(EXECUTABLES)
    assert all(os.access(path, os.X_OK) for path in folder.iterdir())


def test_the_command_runs_from_the_workspace(workspace, shell):
    folder = workspace / 'install' / 'neuron_chunk_ros' / 'lib' / 'neuron_chunk_ros'
    assert 'convert' in shell(f'{folder}/neuron-chunk --help')


def test_the_source_folder_stays_clean(workspace, checkout_files):
    source = workspace / 'src' / 'neuron_chunk_ros'
    found = {path.relative_to(source) for path in source.rglob('*') if path.is_file()}
    added = {path for path in found - set(checkout_files) if '__pycache__' not in path.parts}
    assert not added
