# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The way to the helpers beside the model tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / 'storage'))  # faulty_reads, fuse_drive
pytest.register_assert_rewrite('stream_reference')
