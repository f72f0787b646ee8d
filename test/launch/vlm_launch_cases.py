# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Cases for launch/vlm.launch.py: the node activates itself and answers about its cameras."""

import unittest

import launch_testing
import launch_testing.actions
import launch_testing.asserts
from launch import LaunchDescription
from launch_client import Client, include, number_of_things

# Launch arguments; the name, the image topics and the policy the node should then have.
CASES = [
    ({}, '/vlm', ['/image'], 'dense'),
    ({'namespace': 'arm', 'image': '/wrist/image_raw', 'policy': 'greedy', 'sparsity': '0.1',
      'model': 'tabletop', 'log_level': 'warn', 'autostart': 'True'},
     '/arm/vlm', ['/wrist/image_raw'], 'greedy'),
    ({'cameras': 'front=cam/front, left', 'namespace': '/team/arm', 'mode': 'stream'},
     '/team/arm/vlm', ['/team/arm/cam/front', '/team/arm/left/image'], 'dense'),
]


@launch_testing.parametrize('arguments, name, topics, policy', CASES)
def generate_test_description(arguments, name, topics, policy):
    """Include the launch file with the case's arguments."""
    return LaunchDescription(
        [include('vlm.launch.py', arguments), launch_testing.actions.ReadyToTest()])


class TestRunning(unittest.TestCase):
    """While the node runs."""

    def test_frames_on_the_topics_are_answered(self, name, topics, policy):
        """Publish on the topics the arguments name, and ask."""
        with Client() as client:
            client.wait_until_active(name)
            answer = client.ask_about(name, dict.fromkeys(topics, 1))
        self.assertEqual({header.frame_id for header in answer.images}, set(topics))
        self.assertEqual(answer.io.policy, policy)
        if len(topics) == 1:
            self.assertEqual(answer.text, number_of_things(1))


@launch_testing.post_shutdown_test()
class TestEnded(unittest.TestCase):
    """After launch has stopped the node with SIGINT."""

    def test_exit_code(self, proc_info):
        """The node ended by itself and in peace."""
        launch_testing.asserts.assertExitCodes(proc_info)
