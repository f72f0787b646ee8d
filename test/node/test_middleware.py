# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of messages that are gone is given back; profiles that somebody has stand."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from node_client import image

from neuron_chunk_ros.node.middleware import no_buffers_kept, room_for_large_messages

HEED = 'RMW_FASTRTPS_USE_QOS_FROM_XML'


def test_a_burst_of_large_questions_leaves_nothing_behind(vlm, picture):
    def resident():
        with open(f'/proc/{vlm.process.pid}/statm') as file:
            return int(file.read().split()[1]) * 4096
    large = image(np.zeros((2000, 4000, 3), np.uint8))
    assert vlm.ask(images=[large]).success and vlm.ask(images=[picture]).success
    before = resident()
    for _ in range(2):
        for future in [vlm.ask_later(images=[large]) for _ in range(10)]:
            response = vlm.result(future)
            assert response.success or 'busy' in response.message
    # Twenty questions of 24 MB; the last may still be on its way out.
    assert resident() - before < 60e6


def test_profiles_are_there_while_the_node_is_made_and_gone_behind():
    before = dict(os.environ)
    with no_buffers_kept():
        assert os.environ[HEED] == '1'
        path = Path(os.environ['FASTRTPS_DEFAULT_PROFILES_FILE'])
        assert path.read_text().count('DYNAMIC') == 1
    assert not path.exists() and dict(os.environ) == before


SEGMENTS = """
import os, sys
from neuron_chunk_ros.programs.private_domain import private_environment
os.environ.update(private_environment())  # others' segments are mapped as well
import rclpy
from neuron_chunk_ros.node import middleware

with getattr(middleware, sys.argv[1])():
    rclpy.init()
    node = rclpy.create_node('large')
mapped = {line.split()[-1] for line in open('/proc/self/maps') if '/dev/shm/fastrtps_' in line}
print(max(os.stat(path).st_size for path in mapped))
"""


def test_large_messages_get_a_large_segment():
    few, many = (int(subprocess.run([sys.executable, '-c', SEGMENTS, how], check=True, text=True,
                                    capture_output=True).stdout)
                 for how in ('no_buffers_kept', 'room_for_large_messages'))
    assert few < 1 << 20 and many > 32 << 20


@pytest.mark.parametrize('name', [HEED, 'FASTDDS_DEFAULT_PROFILES_FILE',
                                  'FASTRTPS_DEFAULT_PROFILES_FILE'])
def test_profiles_that_somebody_has_stand(monkeypatch, name):
    monkeypatch.setenv(name, '0')
    before = dict(os.environ)
    for profiles in no_buffers_kept, room_for_large_messages:
        with profiles():
            assert dict(os.environ) == before
        assert dict(os.environ) == before
