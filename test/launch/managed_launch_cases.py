# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A case for launch/vlm.launch.py with autostart:=false: the node does what it is told."""

import time
import unittest

import launch_testing
import launch_testing.actions
import launch_testing.asserts
from launch import LaunchDescription
from launch_client import Client, include


def generate_test_description():
    """Launch a node that waits to be configured."""
    return LaunchDescription([include('vlm.launch.py', {'autostart': 'false'}),
                              launch_testing.actions.ReadyToTest()])


class TestRunning(unittest.TestCase):
    """While the node runs."""

    def test_it_goes_where_it_is_told(self):
        """Walk through the states, twice through active; only there it answers."""
        with Client() as client:
            self.assertEqual(client.state('/vlm'), 'unconfigured')
            self.assertIn('unconfigured', client.ask('/vlm').message)
            self.assertFalse(client.change('/vlm', 'activate'))
            # Loading the model takes no longer; it would be active by itself.
            time.sleep(5.0)
            self.assertEqual(client.state('/vlm'), 'unconfigured')
            for transition, state in (('configure', 'inactive'), ('activate', 'active'),
                                      ('deactivate', 'inactive'), ('activate', 'active'),
                                      ('deactivate', 'inactive'), ('cleanup', 'unconfigured')):
                self.assertTrue(client.change('/vlm', transition), transition)
                self.assertEqual(client.state('/vlm'), state)
                if state == 'active':
                    self.assertEqual(client.ask_about('/vlm', {'/image': 1}).io.policy, 'dense')
                else:
                    response = client.ask('/vlm')
                    self.assertFalse(response.success)
                    self.assertIn(state, response.message)


@launch_testing.post_shutdown_test()
class TestEnded(unittest.TestCase):
    """After launch has stopped the unconfigured node."""

    def test_exit_code(self, proc_info):
        """The node ended by itself and in peace."""
        launch_testing.asserts.assertExitCodes(proc_info)
