# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The files that the reader tests read, and the way to the helpers beside them."""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite('reader_cases')  # its asserts explain themselves as tests' do

from reader_cases import SHM, SIZE  # noqa: E402


@pytest.fixture(scope='module')
def content():
    return np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)


@pytest.fixture(scope='module')
def disk_file(tmp_path_factory, content):
    path = tmp_path_factory.mktemp('reader') / 'data.bin'
    content.tofile(path)
    return path


@pytest.fixture(scope='module')
def memory_file(content):
    if not SHM.is_dir() or not os.access(SHM, os.W_OK):
        pytest.skip('no writable tmpfs at /dev/shm')
    with tempfile.NamedTemporaryFile(dir=SHM, suffix='.bin') as file:
        content.tofile(file.name)
        yield Path(file.name)
