# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Configures, builds and stages one CMake project of this checkout; finds ROS 2 for it."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

from setuptools.errors import ExecError, SetupError

ROOT = Path(__file__).resolve().parent.parent
GENERATORS = 'share/ament_index/resource_index/packages/rosidl_default_generators'


@dataclass(frozen=True)
class RosPrefixes:
    """The installation prefixes that make up a ROS 2 environment."""

    prefixes: tuple  # of str, in search order
    problem: str = ''  # why interfaces can't be built here; empty when they can
    from_wheels: bool = False

    @classmethod
    def find(cls):
        """Look in AMENT_PREFIX_PATH, CMAKE_PREFIX_PATH and the interpreter's own prefix."""
        # colcon overrides sys.prefix with the install folder and keeps the real one here.
        own = getattr(sys, 'real_prefix', sys.prefix)
        listed = [
            entry for name in ('AMENT_PREFIX_PATH', 'CMAKE_PREFIX_PATH')
            for entry in os.environ.get(name, '').split(os.pathsep) if entry]
        if Path(own, GENERATORS).is_file():
            listed.append(own)
        prefixes = tuple(dict.fromkeys(listed))
        if not any(Path(prefix, GENERATORS).is_file() for prefix in prefixes):
            return cls(prefixes, 'no ROS 2 with rosidl_default_generators was found '
                                 '(source /opt/ros/DISTRO/setup.bash, or install the wheels of '
                                 'requirements/ros.txt)')
        if importlib.util.find_spec('ament_package') is None:
            return cls(prefixes, "ROS 2 is there but its Python modules can't be imported "
                                 '(with pip: add --no-build-isolation)')
        wheels = importlib.util.find_spec('ros_wheels_bootstrapper') is not None
        return cls(prefixes, from_wheels=wheels)


class CMakeProject:
    """
    One folder of the checkout with a CMakeLists.txt.

    folder: name below the checkout; base: build folder; ros: its environment, if it needs one.
    """

    def __init__(self, folder, base, ros=None):
        self.source = ROOT / folder
        self.ros = ros
        # CMake remembers interpreter and prefixes: another set of them needs a folder of its own.
        known = os.pathsep.join((str(ROOT), sys.executable, *(ros.prefixes if ros else ())))
        self.work = base / f'{folder}-{zlib.crc32(known.encode()):08x}'
        self.stage = self.work / 'stage'

    def build(self, **cache):
        """
        Configure, build and install into a staging folder; return that folder (absolute).

        cache: CMake cache entries. Raises SetupError without cmake, ExecError when a step fails.
        """
        if shutil.which('cmake') is None:
            raise SetupError('cmake was not found: apt install cmake')
        entries = {
            'CMAKE_BUILD_TYPE': 'Release',
            'CMAKE_INSTALL_PREFIX': self.stage,
            'Python_EXECUTABLE': sys.executable,
            'Python3_EXECUTABLE': sys.executable,
            **cache,
        }
        if self.ros and self.ros.from_wheels:
            entries['CMAKE_PROJECT_INCLUDE'] = ROOT / 'cmake' / 'drop_wheel_includes.cmake'
        self._cmake('-S', self.source, '-B', self.work, '--no-warn-unused-cli',
                    *(f'-D{name}={value}' for name, value in entries.items()))
        # Without a number make would start every job at once.
        jobs = os.environ.get('CMAKE_BUILD_PARALLEL_LEVEL') or str(os.cpu_count() or 1)
        self._cmake('--build', self.work, '--parallel', jobs)
        shutil.rmtree(self.stage, ignore_errors=True)
        self._cmake('--install', self.work)
        return self.stage

    def _cmake(self, *arguments):
        command = ['cmake', *map(str, arguments)]
        done = subprocess.run(command, env=self._environment(), check=False)
        if done.returncode:
            raise ExecError(f'{self.source.name}/: `{" ".join(command[:4])} ...` failed with exit '
                            f'code {done.returncode}; its output is above')

    def _environment(self):
        environment = dict(os.environ)
        # colcon's override of sys.prefix is meant for setup.py, not for what CMake asks Python.
        paths = environment.get('PYTHONPATH', '').split(os.pathsep)
        kept = [path for path in paths if path and Path(path).name != 'prefix_override']
        environment['PYTHONPATH'] = os.pathsep.join(kept)
        if self.ros:
            joined = os.pathsep.join(self.ros.prefixes)
            environment['AMENT_PREFIX_PATH'] = environment['CMAKE_PREFIX_PATH'] = joined
        return environment
