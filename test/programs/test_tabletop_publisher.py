# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tabletop camera: its frames, their truth, and its pace."""

import json
import time

import numpy as np
import pytest
from node_client import until
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from neuron_chunk_ros.node.image_conversion import to_rgb
from neuron_chunk_ros.programs.child_process import ChildProcess
from neuron_chunk_ros.programs.demo.scene_stream import nth_scene
from neuron_chunk_ros.tabletop.scenes import render


@pytest.fixture
def camera(client):
    """The camera as a process; what it publishes (read reliably), and its ~/next."""
    images, truths = [], {}

    def remember(message):
        truth = json.loads(message.data)
        truths[truth['stamp']['sec'], truth['stamp']['nanosec']] = truth
    node = client.node
    subscriptions = [
        node.create_subscription(Image, 'camera/image', lambda m: images.append(
            (time.monotonic(), m)), 1),
        node.create_subscription(String, 'camera/scene', remember, 100)]
    following = node.create_client(Trigger, 'camera/next')
    arguments = ['-r', '__node:=camera', '-r', 'image:=camera/image', '-p', 'seed:=4',
                 '-p', 'scene_period:=0.0', '-p', 'frame_id:=eye']
    module = 'neuron_chunk_ros.programs.demo.tabletop_publisher'
    with ChildProcess(module, arguments, {}) as process:
        until(lambda: len(images) > 3, what='images')
        yield images, truths, following, process
        assert process.end() == 0, process.output()
    for subscription in subscriptions:
        node.destroy_subscription(subscription)
    node.destroy_client(following)


def test_frames_truth_and_next(camera):
    images, truths, following, _ = camera
    until(following.service_is_ready, what='~/next')
    for index in (0, 1, 2):
        if index:
            future = following.call_async(Trigger.Request())
            until(future.done, what='~/next')
            assert future.result().message == str(index)
        time.sleep(0.5)
        message = images[-1][1]
        stamp = message.header.stamp.sec, message.header.stamp.nanosec
        truth = until(lambda at=stamp: truths.get(at), 20.0, 'the truth of this frame')
        assert (truth['seed'], truth['index']) == (4, index)
        scene = nth_scene(4, index)
        assert [thing['name'] for thing in truth['things']] == [t.name for t in scene.things]
        assert (message.encoding, message.width, message.height) == ('rgb8', 640, 480)
        assert message.header.frame_id == 'eye'
        assert np.array_equal(to_rgb(message), render(scene))


@pytest.mark.slow
def test_ten_frames_a_second(camera):
    images = camera[0]
    del images[:]
    time.sleep(3.0)
    times = [at for at, _ in images]
    assert 24 <= len(times) <= 33
    assert 0.08 < np.median(np.diff(times)) < 0.12
