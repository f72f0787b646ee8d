# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What no command expects is one line, too: no memory, no room for a library, a disk's error."""

import errno
import os
import resource

import pytest
from commands import line_of, run_apart

from neuron_chunk_ros.cli.main import told
from neuron_chunk_ros.storage.disk_errors import UnsyncedError


class PanicException(BaseException):
    """As Rust libraries raise it."""


@pytest.mark.parametrize('error, words', [
    (MemoryError(), 'out of memory'),
    (MemoryError('Unable to allocate 8 GiB'), 'out of memory (Unable to allocate 8 GiB)'),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to\nallocate 9 bytes"),
     'allocate 9 bytes): give the process more, or ask for less with --memory-budget-mb'),
    (ImportError('failed to map segment', name='libtorch'), 'libtorch can not be loaded: failed'),
    (PanicException('no threads'), 'a library gave up, out of memory or threads: no threads'),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), '/data/x.json'),
     '/data/x.json: No space left on device, make room and begin again'),
    (UnsyncedError(errno.EIO, os.strerror(errno.EIO), '/data/x.json'),
     '/data/x.json is written, but may be gone after a power failure')])
def test_one_line(capsys, error, words):
    def work():
        raise error

    assert told(work) == 1
    line = capsys.readouterr().err
    assert line.startswith('neuron-chunk: error: ') and words in line and line.count('\n') == 1


def test_a_fault_of_ours_is_not_hidden():
    def work():
        raise RuntimeError('shape mismatch')

    with pytest.raises(RuntimeError):
        told(work)


def test_an_address_space_too_small_for_torch(tiny_models, tmp_path):
    (tmp_path / 'here').mkdir()
    line = line_of(run_apart(
        'convert', tiny_models['tiny-qwen2-vl'], tmp_path / 'here' / 'b', preexec_fn=lambda:
        resource.setrlimit(resource.RLIMIT_AS, (300 << 20,) * 2)))
    assert 'can not be loaded' in line
    assert os.listdir(tmp_path / 'here') == []
