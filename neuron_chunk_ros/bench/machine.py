# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Facts of the machine that a benchmark ran on."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from neuron_chunk_ros import __version__
from neuron_chunk_ros.storage.device_facts import device_facts, huge_pages, kernel

_LIBRARIES = ('numpy', 'torch', 'transformers')


def facts(folder: Path) -> dict[str, str | int]:
    """Return what is known of the storage under a folder, the processor and the software."""
    storage = device_facts(folder)
    return {
        'date': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'device': storage.device, 'file_system': storage.file_system, 'kernel': kernel(),
        'huge_pages': huge_pages(), 'processor': _processor(),
        'cores': len(os.sched_getaffinity(0)), 'python': platform.python_version(),
        'neuron_chunk_ros': __version__, **{name: _version(name) for name in _LIBRARIES},
    }


_PLACES = {'--path': 'DIR', '--profile': 'FILE', '--json': 'FILE', '--out': 'DIR'}


def command_line() -> str:
    """Return the command as a user would type it, in a shell; where files lie is their affair."""
    words = [_PLACES.get(before, word)
             for before, word in zip(['', *sys.argv[1:]], sys.argv[1:], strict=False)]
    return shlex.join(['neuron-chunk', *words])


def _processor() -> str:
    try:
        text = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace')
    except OSError:
        text = ''
    found = re.search(r'^model name\s*:\s*(.+)$', text, re.M)
    return found.group(1) if found else platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return 'missing'
