# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A case for launch/vlm.launch.py with respawn:=true: a killed node comes back and answers."""

import os
import signal
import time
import unittest

import launch_testing
import launch_testing.actions
import launch_testing.asserts
from launch import LaunchDescription
from launch_client import PATIENCE, Client, include


def generate_test_description():
    """Launch a node that follows its camera and is started again whenever it ends."""
    return LaunchDescription([include('vlm.launch.py', {'respawn': 'true', 'mode': 'stream'}),
                              launch_testing.actions.ReadyToTest()])


class TestRunning(unittest.TestCase):
    """While the node runs, dies and runs again."""

    def test_killed_it_comes_back(self, proc_info):
        """Kill the node while it streams."""
        def pid():
            event, = proc_info
            return event.pid

        with Client() as client:
            client.wait_until_active('/vlm')
            before = client.ask_about('/vlm', {'/image': 1})
            killed = pid()
            os.kill(killed, signal.SIGKILL)
            limit = time.monotonic() + PATIENCE
            while pid() == killed:
                self.assertLess(time.monotonic(), limit, 'the node was not started again')
                time.sleep(0.05)
        # A client that knows nothing of the dead one.
        with Client() as client:
            client.wait_until_active('/vlm')
            self.assertEqual(client.ask_about('/vlm', {'/image': 1}).text, before.text)


@launch_testing.post_shutdown_test()
class TestEnded(unittest.TestCase):
    """After launch has stopped the second node."""

    def test_exit_code(self, proc_info):
        """The second node ended by itself and in peace, and no third one came."""
        launch_testing.asserts.assertExitCodes(proc_info)
