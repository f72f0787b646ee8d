# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A while of each fuzzing target: it finds nothing, and it runs cases at all."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = sorted(path.name for path in (ROOT / 'fuzz').glob('*.py'))
SECONDS = 8


def run(target, *options):
    return subprocess.run(
        [sys.executable, ROOT / 'fuzz' / target, *map(str, options)], cwd=ROOT, timeout=600,
        text=True, errors='replace', stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'})


@pytest.mark.slow
@pytest.mark.parametrize('target', TARGETS)
def test_nothing_is_found(target):
    done = run(target, '--seconds', SECONDS, '--seed', 1)
    assert done.returncode == 0, done.stdout[-20_000:]
    assert int(re.search(r'seed 1, (\d+) cases, 0 found', done.stdout)[1]) > 0


@pytest.mark.parametrize('body, words', [
    ('raise KeyError(7)', 'KeyError: 7'),
    ("raise watched.Finding('it is wrong')", 'it is wrong'),
    ('time.sleep(60)', 'Timeout'),
    ('os.abort()', 'SIGABRT'),
    ("hoard.append(bytearray(b'x' * (600 << 20)))", 'MB more than before')])
def test_what_a_case_does_is_found_with_its_number(tmp_path, body, words):
    """The third case does it; the cases ahead of it are let off."""
    target = tmp_path / 'target.py'
    target.write_text(f'''
import os, sys, time
sys.path.insert(0, {str(ROOT / 'fuzz')!r})
from support import watched
hoard = []

def run_case(rng, watch):
    watch('the call under way')
    if watch.case == 2:
        {body}

watched.main(run_case, 'about')
''')
    done = run(target, '--cases', 4, '--patience', 0.2 if 'sleep' in body else 5)
    assert done.returncode == 1
    assert '--seed 0 --case 2 --once\nthe call under way\n' in done.stdout
    assert words in done.stdout and '4 cases, 1 found' in done.stdout
