# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A camera process for tests: 1280x720 at 30 Hz, one of a few pictures in turn."""

import array
import sys
import time

import numpy as np
import rclpy
from sensor_msgs.msg import Image

WIDTH, HEIGHT, RATE = 1280, 720, 30.0


def main():
    """Publish on the topic given as the first argument until killed."""
    rclpy.init()
    node = rclpy.create_node('fast_camera')
    publisher = node.create_publisher(Image, sys.argv[1], 1)
    noise = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), np.uint8)
    pictures = [array.array('B', pixels.tobytes()) for pixels in noise]
    following = time.monotonic()
    for number in range(1 << 30):
        image = Image(height=HEIGHT, width=WIDTH, encoding='rgb8', step=3 * WIDTH,
                      data=pictures[number % len(pictures)])
        image.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(image)
        following += 1 / RATE
        time.sleep(max(0.0, following - time.monotonic()))


if __name__ == '__main__':
    main()
