# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node within a ceiling the kernel enforces, at what it says it needs, under the worst asked.

SOAK_SECONDS in the environment makes it longer than the few seconds it takes else; with more than
200 give pytest -o faulthandler_timeout=0.
"""

import array
import os
import struct
import time
import zlib

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from node_client import VlmProcess, image, until
from rclpy.action import ActionClient
from sensor_msgs.msg import CompressedImage

from neuron_chunk_interfaces.action import Ask
from neuron_chunk_ros.bench.ceiling import ceiling
from neuron_chunk_ros.node.qos import QUESTIONS
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.synthesize import synthesize

pytestmark = pytest.mark.slow

MIB = 1 << 20
SECONDS = float(os.environ.get('SOAK_SECONDS', 12))
LARGEST = 27_000_000  # bytes of a picture
GOALS = 2  # of it at once: as many as may wait
SMALL = image(np.zeros((1, 1, 3), np.uint8))
PARAMETERS = dict(memory_budget_mb=320, max_images=8, max_megapixels=9.0, max_waiting_mb=64)


def pixels(width, height):
    return image(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


def told_png(width, height):
    """Return a PNG of a few bytes that tells of any number of pixels."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack(
            '>I', zlib.crc32(kind + data))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0,
                                                              0, 0))
            + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b''))


def told_webp(width, height):
    """Return a lossless WebP's header alone."""
    data = b'\x2f' + struct.pack('<I', (width - 1) | (height - 1) << 14) + bytes(24)
    body = b'WEBPVP8L' + struct.pack('<I', len(data)) + data
    return b'RIFF' + struct.pack('<I', len(body)) + body


class Worst:
    """All that may be asked, and more, round after round."""

    def __init__(self, node):
        self.node, self.client = node, node.client
        self.goals = ActionClient(
            node.client.node, Ask, f'{node.name}/ask', goal_service_qos_profile=QUESTIONS,
            result_service_qos_profile=QUESTIONS)
        self.largest = pixels(3000, 3000)
        self.many = [pixels(1200, 900)] * 8
        self.legal = [dict(images=[self.largest]), dict(images=self.many),
                      dict(images=[pixels(200, 40)] * 8, prompt='what is there? ' * 1000),
                      *[dict(images=[self.largest])] * 6]
        self.refused = [dict(images=[SMALL] * 200), dict(prompt='what ' * 2_000_000),
                        dict(images=[self.largest, SMALL])]
        self.asked = self.answered = 0

    def close(self):
        self.goals.destroy()

    def round(self):
        """Ask it all; everybody hears. Returns how many were answered and how many refused."""
        before = self.answered
        for fields in self.refused:
            response = self.hear(self.node.ask(**fields))
            assert not response.success and 'allowed' in response.message
        for fields in self.legal[:2]:
            response = self.hear(self.node.ask(**fields))
            assert response.success, response.message
        for future in [self.node.ask_later(**fields) for fields in self.legal]:
            self.hear(self.node.result(future))
        sent = [self.client.in_its_thread(lambda: self.goals.send_goal_async(
            Ask.Goal(prompt='what?', images=[self.largest]))) for _ in range(GOALS)]
        for future in sent:
            handle = self.node.result(future)
            assert handle.accepted
            outcome = self.node.result(self.client.in_its_thread(handle.get_result_async))
            self.hear(outcome.result)
            assert outcome.status in (GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_ABORTED)
        assert self.answered > before

    def hear(self, response):
        self.asked += 1
        self.answered += response.success
        assert response.success or response.message
        return response


@pytest.fixture(scope='module')
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp('qwen')
    synthesize('tiny-qwen2-vl', folder / 'model')
    convert(folder / 'model', folder / 'bundle')
    return folder / 'bundle'


@pytest.mark.parametrize('mode, model', [('snapshot', 'qwen'), ('stream', 'tabletop')])
def test_the_node_at_its_own_stated_need(client, request, capsys, mode, model):
    name = f'tight_{mode}_{model}'
    parameters = dict(PARAMETERS, mode=mode, image_transport='compressed')
    if mode == 'stream':
        parameters |= dict(window=4, image_transport='raw')
    if model != 'tabletop':
        parameters['model'] = request.getfixturevalue(model)
    with ceiling(name) as group:
        if group is None:
            pytest.skip('no memory cgroup can be made here: it takes root and a memory controller')
        with VlmProcess(client, name, **parameters) as node:
            group.take(node.process.pid)
            node.wait_until_ready()
            told = {v.key: v.value for v in node.status('memory').values}
            idle = group.held()
            need = idle + int(MIB * sum(float(told[key]) for key in (
                'kv_cache (MiB)', 'activations (MiB)', 'requests, at most (MiB)')))
            group.close_at(need)
            worst, rounds = Worst(node), []
            until(worst.goals.server_is_ready, what='the action')
            ended = time.monotonic() + SECONDS
            while time.monotonic() < ended or len(rounds) < 2:
                show(node, mode, worst.largest)
                worst.round()
                rounds.append(group.held())
            worst.close()
            assert group.killed() == 0 and node.process.exit_code() is None
            assert 'Traceback' not in node.process.output()
            with capsys.disabled():
                print(f'\n{name}: {idle >> 20} MiB idle, {need >> 20} stated, '
                      f'{group.most() >> 20} taken at most; {worst.asked} asked, '
                      f'{worst.answered} answered; {len(rounds)} rounds, held after the first '
                      f'{rounds[0] >> 20} MiB, the last {rounds[-1] >> 20}, '
                      f'{max(rounds) >> 20} at most')
            # What was asked is gone behind it, and in the long run nothing is added.
            assert max(rounds) - idle < 192 * MIB
            # The camera's newest frame is kept, and its picture; some rounds end before one came.
            third = len(rounds) // 3
            assert third < 4 or max(rounds[-third:]) - max(rounds[:third]) < LARGEST


def show(node, mode, largest):
    """Publish what the camera may send, and what it may not."""
    if mode == 'stream':
        shown = [largest, SMALL, pixels(4000, 3000)]
    else:
        shown = [CompressedImage(format='x', data=array.array('B', make(16383, 16383)))
                 for make in (told_png, told_webp)]
    for message in shown:
        node.images.publish(message)
        time.sleep(0.05)
