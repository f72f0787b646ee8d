# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Run in an installation's environment: prints as JSON where its parts were found."""

import json
from pathlib import Path

import rclpy
from ament_index_python.packages import get_package_share_directory

import neuron_chunk_interfaces
from neuron_chunk_interfaces.action import Ask
from neuron_chunk_interfaces.msg import Answer, IoTelemetry, Timing
from neuron_chunk_interfaces.srv import Query
from neuron_chunk_ros import __version__, _native
from neuron_chunk_ros.programs.private_domain import private_environment


def travelled():
    """Send an answer through DDS: its libraries are loaded by name, which imports don't show."""
    node = rclpy.create_node('report_install')
    received = []
    node.create_subscription(Answer, 'answer', received.append, 10)
    node.create_service(Query, 'query', lambda request, response: response)
    publisher = node.create_publisher(Answer, 'answer', 10)
    sent = Answer(
        text='red', finish_reason=Answer.FINISH_STOP, timing=Timing(total=0.25),
        io=IoTelemetry(step=IoTelemetry.STEP_ANSWER, contiguity=[3, 0, 1]))
    for _ in range(200):
        publisher.publish(sent)
        rclpy.spin_once(node, timeout_sec=0.1)
        if received:
            return received[0] == sent
    return False


if __name__ == '__main__':
    import os
    os.environ.update(private_environment())
    rclpy.init()
    print(json.dumps({
        'version': __version__,
        'native': _native.__file__,
        'io_uring': bool(_native.io_uring_available()),
        'interfaces': neuron_chunk_interfaces.__file__,
        'stages': Ask.Feedback.STAGE_DECODE,
        'share': get_package_share_directory('neuron_chunk_ros'),
        'interfaces_share': get_package_share_directory('neuron_chunk_interfaces'),
        'tabletop': str(Path(_native.__file__).parent / 'tabletop'),
        'travelled': travelled(),
    }))
    rclpy.shutdown()
