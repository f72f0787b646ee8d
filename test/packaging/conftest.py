# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The checkout's own files, clean copies of them, and an environment to build those in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='session')
def checkout_files():
    """Give the paths, relative to the checkout, of the files that git tracks or would track."""
    if shutil.which('git') is None or not (ROOT / '.git').exists():
        pytest.skip('needs git and a git checkout to tell sources from build products')
    listed = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT, check=True, capture_output=True, text=True)
    names = sorted(set(listed.stdout.split('\0')) - {''})
    return [Path(name) for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope='session')
def copy_checkout(checkout_files):
    """Give a function that copies the checkout's files to a new folder and returns it."""
    def copy(target):
        for name in checkout_files:
            (target / name.parent).mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
        return target
    return copy


@pytest.fixture(scope='session')
def build_environment():
    """Give the environment for a build: ROS 2 found, nothing of this checkout's own install."""
    environment = dict(os.environ)
    environment.pop('PYTHONPATH', None)
    environment.setdefault('CMAKE_BUILD_PARALLEL_LEVEL', '2')
    environment['NEURON_CHUNK_INTERFACES'] = 'on'
    environment['PATH'] = os.pathsep.join((str(Path(sys.executable).parent), environment['PATH']))
    # Where ROS 2 is apt's, its setup.bash has set these, and PYTHONPATH carries its modules.
    if 'AMENT_PREFIX_PATH' in os.environ:
        environment['PYTHONPATH'] = os.environ.get('PYTHONPATH', '')
    else:
        environment['AMENT_PREFIX_PATH'] = sys.prefix
    return environment


@pytest.fixture(scope='session')
def run():
    """Give a function that runs a command, returns its output and fails the test if it fails."""
    def run_command(*command, **options):
        done = subprocess.run(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, **options)
        if done.returncode:
            pytest.fail(f'{command[0]} ended with {done.returncode}:\n{done.stdout[-6000:]}')
        return done.stdout
    return run_command
