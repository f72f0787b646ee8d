# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the cases share: the launch files' folder, and a client of the nodes they start."""

import array
import time
from pathlib import Path

import numpy as np
import rclpy
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from neuron_chunk_interfaces.srv import Query
from neuron_chunk_ros.programs.demo.scene_stream import nth_scene
from neuron_chunk_ros.tabletop.questions import NUMBERS
from neuron_chunk_ros.tabletop.scenes import render

PATIENCE = 60.0


def include(file, arguments):
    """Return the action that includes one of our launch files."""
    path = Path(__file__).resolve().parents[2] / 'launch' / file
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(path)), launch_arguments=arguments.items())


def number_of_things(seed):
    """Return how many things Client.show shows for this seed, as the model says it."""
    return NUMBERS[len(nth_scene(seed, 0).things)]


class Client:
    """A node in a context of its own; a context manager."""

    def __enter__(self):
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node('launch_tester', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        return self

    def __exit__(self, *_):
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def call(self, kind, service, request):
        """Call a service and return its response."""
        client = self._node.create_client(kind, service)
        try:
            assert client.wait_for_service(PATIENCE), f'no service {service}'
            future = client.call_async(request)
            self._executor.spin_until_future_complete(future, PATIENCE)
            assert future.done(), f'no response from {service}'
            return future.result()
        finally:
            self._node.destroy_client(client)

    def state(self, node):
        """Return the label of a managed node's state."""
        return self.call(GetState, f'{node}/get_state', GetState.Request()).current_state.label

    def wait_until_active(self, node):
        """Block until the node is active."""
        limit = time.monotonic() + PATIENCE
        while (state := self.state(node)) != 'active':
            assert time.monotonic() < limit, f'{node} is still {state}'
            time.sleep(0.1)

    def change(self, node, transition):
        """Ask for a transition and return whether it succeeded."""
        request = ChangeState.Request()
        request.transition.label = transition
        return self.call(ChangeState, f'{node}/change_state', request).success

    def number(self, node, parameter):
        """Return the value of a parameter with a point."""
        return self.call(GetParameters, f'{node}/get_parameters', GetParameters.Request(
            names=[parameter])).values[0].double_value

    def ask(self, node):
        """Return the response to a question."""
        return self.call(
            Query, f'{node}/query', Query.Request(prompt='how many things are there?'))

    def ask_about(self, node, frames):
        """Return the answer about a frame on each of these topics, given as {topic: seed}."""
        publishers = {self._node.create_publisher(Image, topic, 1): self._frame(topic, seed)
                      for topic, seed in frames.items()}
        limit = time.monotonic() + PATIENCE
        # Until publisher and subscription have met, frames are lost.
        while True:
            for publisher, frame in publishers.items():
                publisher.publish(frame)
            time.sleep(0.1)
            response = self.ask(node)
            if response.success:
                break
            assert time.monotonic() < limit, response.message
        for publisher in publishers:
            self._node.destroy_publisher(publisher)
        return response.answer

    @staticmethod
    def _frame(topic, seed):
        pixels = np.ascontiguousarray(render(nth_scene(seed, 0), (320, 240)))
        frame = Image(height=240, width=320, encoding='rgb8', step=960,
                      data=array.array('B', pixels.tobytes()))
        frame.header.frame_id = topic
        return frame
