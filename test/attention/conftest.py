# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Lets the tests here share `masked_attention`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
