# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`pip install` of a clean copy of the checkout into a new virtual environment."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PIP = ('-m', 'pip', '--disable-pip-version-check', '--no-input')
FROM_SOURCE = ('--no-build-isolation', '--no-deps', '--no-index')


@pytest.fixture(scope='module')
def checkout(copy_checkout, tmp_path_factory):
    """Give a copy of the checkout; what one test built in it speeds up the next."""
    return copy_checkout(tmp_path_factory.mktemp('pip') / 'neuron_chunk_ros')


@pytest.fixture(scope='module')
def environment(checkout, build_environment, run, tmp_path_factory):
    """Give a virtual environment (a folder) with the package in it and a view of the outer one."""
    folder = tmp_path_factory.mktemp('venv')
    run(sys.executable, '-m', 'venv', '--without-pip', folder)
    site = sysconfig.get_path('purelib', 'posix_prefix', {'base': str(folder)})
    Path(site, 'outer.pth').write_text(sysconfig.get_path('purelib') + '\n')
    run(folder / 'bin' / 'python', *PIP, 'install', *FROM_SOURCE, checkout,
        env={**build_environment, 'VIRTUAL_ENV': str(folder)})
    return folder


@pytest.fixture(scope='module')
def inside(environment, build_environment):
    """Give the variables of a process in the new environment."""
    # The ROS wheels' start-up hook sets this for the environment that they are installed in.
    libraries = os.pathsep.join((str(environment / 'lib'), os.environ.get('LD_LIBRARY_PATH', '')))
    prefixes = os.pathsep.join((str(environment), build_environment['AMENT_PREFIX_PATH']))
    return {**build_environment, 'LD_LIBRARY_PATH': libraries, 'AMENT_PREFIX_PATH': prefixes}


def test_the_parts_are_found_and_work(environment, inside, run):
    script = Path(__file__).with_name('report_install.py')
    output = run(environment / 'bin' / 'python', script, env=inside, cwd='/')
    report = json.loads(output.splitlines()[-1])
    for part in ('native', 'interfaces', 'share', 'interfaces_share'):
        assert Path(report[part]).is_relative_to(environment), part
    assert report['travelled'] is True
    share = Path(report['share'])
    assert (share / 'launch' / 'vlm.launch.py').is_file()
    assert (share / 'config' / 'vlm.yaml').is_file()


def test_console_scripts_are_in_bin(environment, inside, run):
    scripts = {path.name for path in (environment / 'bin').iterdir()}
    assert {'neuron-chunk', 'neuron_chunk_demo', 'tabletop_publisher', 'vlm_node'} <= scripts
    assert not (environment / 'lib' / 'neuron_chunk_ros').exists()
    assert 'convert' in run(environment / 'bin' / 'neuron-chunk', '--help', env=inside, cwd='/')


def test_without_interfaces_the_engine_is_still_packed(
        environment, checkout, build_environment, run, tmp_path):
    run(environment / 'bin' / 'python', *PIP, 'wheel', *FROM_SOURCE, '-w', tmp_path, checkout,
        env={**build_environment, 'NEURON_CHUNK_INTERFACES': 'off'})
    wheel, = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith('neuron_chunk_ros/_native.') for name in names)
    assert not any('neuron_chunk_interfaces' in name for name in names)


def test_a_wrong_setting_ends_in_one_clear_line(
        environment, checkout, build_environment, tmp_path):
    done = subprocess.run(
        [environment / 'bin' / 'python', *PIP, 'wheel', *FROM_SOURCE, '-w', tmp_path, checkout],
        env={**build_environment, 'NEURON_CHUNK_INTERFACES': 'perhaps'},
        capture_output=True, text=True, check=False)
    assert done.returncode
    assert "NEURON_CHUNK_INTERFACES is 'perhaps'; it must be auto, on or off" in done.stderr
    assert not list(tmp_path.iterdir())
