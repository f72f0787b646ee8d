# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Setuptools commands that build the two CMake parts of this package.

`native/` becomes the extension module `neuron_chunk_ros._native`; `neuron_chunk_interfaces/`
becomes message libraries, Python modules and share files, installed beside the package itself.
colcon stops looking for packages at the first package.xml, so an interface package below this one
would never be found by a plain `colcon build`; that is why it is built from here.

Environment: `NEURON_CHUNK_INTERFACES` = `auto` (default: built where ROS 2 is found), `on` (an
error where it isn't) or `off`; `CMAKE_BUILD_PARALLEL_LEVEL` as CMake has it.
"""

import os
import shutil
import sysconfig
from pathlib import Path

from setuptools.command.build_ext import build_ext
from setuptools.command.develop import develop
from setuptools.errors import SetupError

# setuptools has no install_data of its own; its import above made distutils available (3.12+).
from distutils.command.install_data import install_data  # isort: skip

from cmake_project import CMakeProject, RosPrefixes

INTERFACES = 'neuron_chunk_interfaces'
# Relative to an installation prefix, and the same that colcon puts on PYTHONPATH.
PYTHON_DIR = os.path.relpath(
    sysconfig.get_path('purelib', 'posix_prefix', {'base': '/prefix'}), '/prefix')


class BuildNative(build_ext):
    """build_ext that lets CMake build the extension modules."""

    def build_extension(self, ext):
        """Build `native/` and put the module where setuptools expects it."""
        project = CMakeProject('native', build_base(self))
        stage = project.build()
        module = next(stage.glob(f'{ext.name.rpartition(".")[2]}.*'), None)
        if module is None:
            raise SetupError(f'native/ was built but installed no {ext.name} below {stage}')
        target = self.get_ext_fullpath(ext.name)
        self.mkpath(os.path.dirname(target))
        self.copy_file(str(module), target)

    def run(self):
        """Build; in editable mode also install the data files, which PEP 660 leaves out."""
        super().run()
        if getattr(self, 'editable_mode', False):
            self.run_command('install_data')


class InstallData(install_data):
    """install_data that also builds and installs the interface package."""

    def run(self):
        """Install data files, the interfaces' libraries and share files, and their modules."""
        stage = build_interfaces(self)
        if stage is not None:
            # A copy: the list belongs to the distribution and is read again by other commands.
            self.data_files = [*self.data_files, *staged_files(stage, exclude=PYTHON_DIR)]
            # Python modules go where this package's own go. Only the install command knows: a
            # wheel's root, a prefix's site-packages, dist-packages on Debian.
            library = Path(self.get_finalized_command('install').install_lib)
            package = library / INTERFACES
            shutil.copytree(
                stage / PYTHON_DIR / INTERFACES, package, dirs_exist_ok=True,
                ignore=shutil.ignore_patterns('__pycache__'))
            self.outfiles += [str(path) for path in package.rglob('*') if path.is_file()]
        super().run()


class Develop(develop):
    """develop (colcon --symlink-install) with the interfaces among the files to link."""

    def install_for_development(self):
        """Add the staged tree to the data files, which colcon links right after this command."""
        super().install_for_development()
        stage = build_interfaces(self)
        if stage is not None:
            self.distribution.data_files.extend(staged_files(stage))


def build_base(command):
    """Return the absolute build folder that pip or colcon chose for `command`."""
    return Path(command.get_finalized_command('build').build_base).resolve()


def build_interfaces(command):
    """
    Build the interface package and return its staged tree, or None where it is left out.

    Raises SetupError when NEURON_CHUNK_INTERFACES is `on` and ROS 2 can't be found.
    """
    wanted = os.environ.get('NEURON_CHUNK_INTERFACES', 'auto')
    if wanted not in ('auto', 'on', 'off'):
        raise SetupError(f'NEURON_CHUNK_INTERFACES is {wanted!r}; it must be auto, on or off')
    if wanted == 'off':
        return None
    ros = RosPrefixes.find()
    if ros.problem:
        message = f'{INTERFACES} is not built: {ros.problem}'
        if wanted == 'on':
            raise SetupError(message)
        command.warn(f'{message}. The engine works without it, the ROS node does not.')
        return None
    project = CMakeProject(INTERFACES, build_base(command), ros)
    return project.build(BUILD_TESTING='OFF', PYTHON_INSTALL_DIR=PYTHON_DIR)


def staged_files(stage, exclude=None):
    """Return the data_files entries that reproduce `stage`, without the folder `exclude`."""
    entries = {}
    for path in sorted(stage.rglob('*')):
        relative = path.relative_to(stage)
        skipped = '__pycache__' in relative.parts or any(
            part.endswith('.egg-info') for part in relative.parts)
        if path.is_dir() or skipped or (exclude and relative.is_relative_to(exclude)):
            continue
        entries.setdefault(str(relative.parent), []).append(str(path))
    return list(entries.items())
