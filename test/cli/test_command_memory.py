# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Commands within a ceiling the kernel enforces, at what they say they need beside libraries."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from neuron_chunk_ros.bench.ceiling import ceiling
from neuron_chunk_ros.families import family_for

pytestmark = pytest.mark.slow

MIB = 1 << 20
PROGRAM = '''
import sys
from pathlib import Path
from neuron_chunk_ros.bench.ceiling import Ceiling
group = Ceiling(Path(sys.argv[1]), sys.argv[2])
group.enter()
from neuron_chunk_ros.cli import main
import neuron_chunk_ros.engine.session, neuron_chunk_ros.prepare.convert
import transformers.models.llava_onevision.modeling_llava_onevision
group.close_at(group.held() + int(sys.argv[3]))
code = main.main(sys.argv[4:])
assert group.killed() == 0
sys.exit(code)
'''


def run(nbytes, *arguments):
    """Run a command with so many bytes beyond its libraries; return what it printed."""
    with ceiling('command') as group:
        if group is None:
            pytest.skip('no memory cgroup can be made here: it takes root and a memory controller')
        done = subprocess.run(
            [sys.executable, '-c', PROGRAM, str(group.folder), group.limit, str(nbytes),
             *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def test_convert_and_ask_at_their_stated_need(large_model, tmp_path):
    config = json.loads((large_model / 'config.json').read_text())
    largest = max(2 * plan.rows * plan.columns for plan in family_for(config).groups(config))
    bundle = tmp_path / 'bundle'
    # One group at a time, and pieces on their way: far less than the model's 320 MB.
    run(largest + 64 * MIB, 'convert', large_model, bundle)
    Image.fromarray(np.full((1500, 2000, 3), 90, np.uint8)).save(tmp_path / 'picture.png')
    for budget in (320, 400):
        assert run(budget * MIB, 'ask', bundle, 'what is there?', '--image',
                   tmp_path / 'picture.png', '--memory-budget-mb', budget, '--max-new-tokens',
                   8, '--json')
