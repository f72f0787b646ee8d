# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The native core under sanitizers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def run(*command, timeout, **environment):
    return subprocess.run([str(part) for part in command], cwd=ROOT, timeout=timeout, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors='replace',
                          env=os.environ | environment)


def test_the_sanitizers_find_nothing(tmp_path):
    done = run(ROOT / 'tools' / 'sanitize.sh', 5, timeout=840, PYTHON=sys.executable,
               SCRATCH=str(tmp_path))
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout[-20_000:]
    assert done.stdout.count(' 0 wrong') == 4
