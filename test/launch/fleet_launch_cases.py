# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A case for launch/fleet.launch.py: two robots, a camera and a parameter file each."""

import tempfile
import unittest
from pathlib import Path

import launch_testing
import launch_testing.actions
import launch_testing.asserts
from launch import LaunchDescription
from launch_client import Client, include, number_of_things

# Of each robot: its policy, and the seed of the scene its camera shows.
ROBOTS = {'robot1': ('topk', 1), 'robot2': ('greedy', 2)}
_FOLDER = tempfile.TemporaryDirectory()


def generate_test_description():
    """Launch both, each with its policy in its parameter file and the rest as arguments."""
    for robot, (policy, _) in ROBOTS.items():
        Path(_FOLDER.name, f'{robot}.yaml').write_text(
            f'/**:\n  ros__parameters:\n    policy: {policy}\n')
    return LaunchDescription([
        include('fleet.launch.py', {
            'robots': ', '.join(ROBOTS), 'params_dir': _FOLDER.name,
            'image': 'camera/image_raw', 'sparsity': '0.05'}),
        launch_testing.actions.ReadyToTest()])


class TestRunning(unittest.TestCase):
    """While both nodes run."""

    def test_each_answers_in_its_namespace_about_its_camera(self):
        """Show both their scenes, and ask both."""
        self.assertNotEqual(*(number_of_things(seed) for _, seed in ROBOTS.values()))
        topics = {f'/{robot}/camera/image_raw': seed for robot, (_, seed) in ROBOTS.items()}
        with Client() as client:
            for robot, (policy, seed) in ROBOTS.items():
                client.wait_until_active(f'/{robot}/vlm')
                answer = client.ask_about(f'/{robot}/vlm', topics)
                self.assertEqual([header.frame_id for header in answer.images],
                                 [f'/{robot}/camera/image_raw'])
                self.assertEqual(answer.text, number_of_things(seed))
                self.assertEqual(answer.io.policy, policy)
                self.assertEqual(client.number(f'/{robot}/vlm', 'sparsity'), 0.05)


@launch_testing.post_shutdown_test()
class TestEnded(unittest.TestCase):
    """After launch has stopped both nodes."""

    def test_exit_codes(self, proc_info):
        """Both ended by themselves and in peace."""
        self.assertEqual(len(list(proc_info)), len(ROBOTS))
        launch_testing.asserts.assertExitCodes(proc_info)
