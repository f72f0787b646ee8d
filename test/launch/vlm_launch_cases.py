# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""launch_testing cases for launch/vlm.launch.py; `launch_test` runs this file as it is."""

import array
import time
import unittest
from pathlib import Path

import launch_testing
import launch_testing.actions
import launch_testing.asserts
import numpy as np
import rclpy
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from sensor_msgs.msg import Image

from neuron_chunk_interfaces.srv import Query
from neuron_chunk_ros.node.demo.scene_stream import nth_scene
from neuron_chunk_ros.tabletop.scenes import render

LAUNCH_FILE = Path(__file__).resolve().parents[2] / 'launch' / 'vlm.launch.py'
PATIENCE = 120.0

# Launch arguments; the name, image topic and policy the node should then have.
CASES = [
    ({}, '/vlm', '/image', 'dense'),
    ({'namespace': 'arm', 'image': '/wrist/image_raw', 'policy': 'greedy', 'sparsity': '0.5',
      'model': 'tabletop', 'log_level': 'warn'}, '/arm/vlm', '/wrist/image_raw', 'greedy'),
]


@launch_testing.parametrize('arguments, name, topic, policy', CASES)
def generate_test_description(arguments, name, topic, policy):
    """Include the launch file with the case's arguments."""
    return LaunchDescription([
        IncludeLaunchDescription(PythonLaunchDescriptionSource(str(LAUNCH_FILE)),
                                 launch_arguments=arguments.items()),
        launch_testing.actions.ReadyToTest(),
    ])


class TestRunning(unittest.TestCase):
    """While the node runs."""

    def setUp(self):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('launch_tester', context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def tearDown(self):
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def test_a_frame_on_the_topic_is_answered(self, name, topic, policy):
        """Publish on the topic the launch file remapped to, and ask."""
        publisher = self.node.create_publisher(Image, topic, 1)
        client = self.node.create_client(Query, f'{name}/query')
        self.assertTrue(client.wait_for_service(PATIENCE), f'no service {name}/query')
        pixels = render(nth_scene(0, 0), (320, 240))
        frame = Image(height=240, width=320, encoding='rgb8', step=960,
                      data=array.array('B', np.ascontiguousarray(pixels).tobytes()))
        frame.header.stamp.sec = 42
        limit = time.monotonic() + PATIENCE
        success = False
        while not success and time.monotonic() < limit:
            publisher.publish(frame)
            future = client.call_async(Query.Request(prompt='how many things are there?'))
            self.executor.spin_until_future_complete(future, PATIENCE)
            response = future.result()
            success = response.success
            time.sleep(0.2)
        self.assertTrue(success, response.message)
        self.assertEqual(response.answer.header.stamp.sec, 42)
        self.assertEqual(response.answer.io.policy, policy)


@launch_testing.post_shutdown_test()
class TestEnded(unittest.TestCase):
    """After launch has stopped the node with SIGINT."""

    def test_exit_code(self, proc_info):
        """The node ended by itself and in peace."""
        launch_testing.asserts.assertExitCodes(proc_info)
