# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The demo as a user runs it: its last line, its pictures, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from PIL import Image

COMMAND = [sys.executable, '-c',  # as the installed script does it
           'import sys; from neuron_chunk_ros.programs.demo.main import main; sys.exit(main())']


@pytest.mark.slow
def test_whole_demo(tmp_path):
    done = subprocess.run([*COMMAND, '--out', str(tmp_path)], capture_output=True, text=True,
                          timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.rstrip().splitlines()[-1]
    found = re.fullmatch(r'demo: 24 asked, (\d+) right, (\d+\.\d) MB read from flash '
                         r'\(direct I/O: (yes|no)\), (\d+) ms median', last)
    assert found, last
    assert int(found[1]) >= 20 and float(found[2]) > 0
    assert len(re.findall(r'^ *\d+  .*(right|WRONG)', done.stdout, re.M)) == 24
    pictures = sorted(tmp_path.glob('[0-9][0-9]_*.png'))
    assert len(pictures) == 24
    for path in (*pictures, tmp_path / 'overview.png', tmp_path / 'contiguity.png'):
        with Image.open(path) as picture:
            assert picture.width >= 640 and picture.height >= 300


@pytest.mark.slow
@pytest.mark.parametrize('number,after', [
    (signal.SIGINT, 'starting'), (signal.SIGTERM, 'question'), (signal.SIGKILL, 'starting')])
def test_interrupted_demo_leaves_no_process(tmp_path, number, after):
    with subprocess.Popen([*COMMAND, '--out', str(tmp_path)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, 'PYTHONUNBUFFERED': '1'}) as demo:
        while after not in demo.stdout.readline():
            assert demo.poll() is None
        limit = time.monotonic() + 30
        while len(children := psutil.Process(demo.pid).children()) < 2:
            assert time.monotonic() < limit
        demo.send_signal(number)
        demo.stdout.read()
        code = demo.wait(60)
    assert code == (-9 if number == signal.SIGKILL else 130)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


@pytest.mark.slow
def test_node_that_fails_shows_its_output(tmp_path):
    done = subprocess.run([*COMMAND, '--out', str(tmp_path)], capture_output=True, text=True,
                          timeout=200, env={**os.environ, 'XDG_CACHE_HOME': '/proc/nowhere'})
    assert done.returncode == 1
    assert 'demo: error: neuron_chunk_ros.node.main ended with exit code 1' in done.stderr
    assert '[FATAL]' in done.stderr and 'Traceback' not in done.stderr


def test_help_says_how_it_keeps_to_itself():
    done = subprocess.run([*COMMAND, '--help'], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and 'ROS_DOMAIN_ID' in done.stdout
    for wrong in (['--sparsity', '1'], ['--seed', '-1'], ['--policy', 'best']):
        assert subprocess.run([*COMMAND, *wrong], capture_output=True).returncode == 2
