# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A Ctrl-C while a child is started is neither lost nor leaves the child behind."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, psutil, signal, sys
from neuron_chunk_ros.programs.child_process import ChildProcess
number = getattr(signal, sys.argv[1])
if sys.argv[2] == 'raises':
    def raises(*_): raise KeyboardInterrupt
    signal.signal(number, raises)
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(number))
try:
    with ChildProcess('sleeper', [], {}):
        print('swallowed')
except KeyboardInterrupt:
    print('raised', len(psutil.Process().children()))
"""


@pytest.mark.parametrize('number, handler, told', [
    ('SIGINT', 'default', (0, 'raised 0')), ('SIGTERM', 'raises', (0, 'raised 0')),
    ('SIGTERM', 'default', (-15, ''))])
def test_a_signal_amid_its_start(tmp_path, number, handler, told):
    (tmp_path / 'sleeper.py').write_text('import time\ntime.sleep(60)\n')
    done = subprocess.run([sys.executable, '-c', SCRIPT, number, handler], stdout=subprocess.PIPE,
                          env={**os.environ, 'PYTHONPATH': str(tmp_path)}, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == told
