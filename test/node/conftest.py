# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Real nodes as real processes, and a client that talks to them over DDS."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from ros_fixtures import (  # noqa: E402, F401
    client,
    long_answers,
    picture,
    start,
    vlm,
)
