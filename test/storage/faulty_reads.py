# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A drive that fails under the real back ends: faulty_reads.c, compiled and told what to do."""

import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

_FIELDS = ['kind', 'value', 'first', 'times', 'seen', 'hanging', 'released', 'align', 'told']
NOTHING, ERROR, SHORT, DELAY, HANG = range(5)
EVER = 2**31 - 1


class Orders:
    """What a drive is to do wrong; shared with the process that it does it to."""

    def __init__(self, path):
        with open(path, 'r+b') as file:
            self._numbers = np.frombuffer(mmap.mmap(file.fileno(), 4 * len(_FIELDS)), np.int32)

    def __getattr__(self, name):
        return int(self._numbers[_FIELDS.index(name)])

    def set(self, name, number):
        self._numbers[_FIELDS.index(name)] = number

    def give(self, kind, value=0, first=0, times=1, **others):
        """Let reads from the `first` one from now on go wrong."""
        fields = {'value': value, 'first': first, 'times': times, 'seen': 0, 'released': 0,
                  **others, 'kind': kind}
        for name, number in fields.items():
            self.set(name, number)

    def release(self):
        """Let those that hang go on, and later ones too."""
        self.set('kind', NOTHING)
        self.set('released', 1)


class FaultyDrive:
    """Runs programs on whose reads of some files' bytes orders are executed.

    In the program itself, or, where others see to them, by nobody here.
    """

    def __init__(self, folder, preloaded=True):
        self._orders = folder / 'orders'
        self._orders.write_bytes(bytes(4 * len(_FIELDS)))
        self.orders = Orders(self._orders)
        self._environment = {'FAULTY_ORDERS': str(self._orders)}
        if preloaded:
            self._environment['LD_PRELOAD'] = str(self._compile(folder / 'faulty_reads.so'))

    def _compile(self, library):
        compiler = shutil.which(os.environ.get('CC', 'cc')) or shutil.which('gcc')
        if compiler is None:
            pytest.skip('no C compiler to build the faulty drive with')
        source = Path(__file__).with_name('faulty_reads.c')
        built = subprocess.run(
            [compiler, '-O1', '-Wall', '-Werror', '-shared', '-fPIC', str(source), '-o',
             str(library), '-ldl'], capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        return library

    def start(self, program, path, *arguments, **options):
        """Start a Python program; files whose path begins with `path` are on the drive for it."""
        self.orders.give(NOTHING, align=0, told=0)
        environment = os.environ | self._environment | {'FAULTY_PATH': str(path)}
        return subprocess.Popen(
            [sys.executable, '-c', program, str(path), *map(str, arguments)], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=Path(__file__).parent,
            env=environment, **options)

    def run(self, program, path, *arguments, timeout=60):
        """Run one to its end; returns what it printed."""
        with self.start(program, path, *arguments) as running:
            try:
                output = running.communicate(timeout=timeout)[0]
            except subprocess.TimeoutExpired:
                running.kill()
                raise AssertionError(f'hangs; so far: {running.communicate()[0]}') from None
        if output.startswith('skip: '):
            pytest.skip(output[6:].strip())
        assert running.returncode == 0, (running.returncode, output)
        return output
