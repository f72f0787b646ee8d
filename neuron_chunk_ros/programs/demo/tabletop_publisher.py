# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The `tabletop_publisher` command: a camera that looks at rendered tabletop scenes.

Beside each image it tells the truth: `~/scene` carries a JSON text with the image's stamp, the
scene's seed and index, and the things in it.
"""

import array
import json
import sys
from dataclasses import asdict

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from neuron_chunk_ros.programs.demo.scene_stream import nth_scene
from neuron_chunk_ros.tabletop.scenes import render


class TabletopPublisher(Node):
    """Publishes `image` (rgb8) and `~/scene`; `~/next` shows the next scene."""

    def __init__(self):
        super().__init__('tabletop_publisher')
        rate = self._declare('rate', 10.0, 'Images per second [Hz].', (0.1, 100.0))
        self._size = (self._declare('width', 640, 'Width of the images [pixels].', (32, 4096)),
                      self._declare('height', 480, 'Height of the images [pixels].', (32, 4096)))
        self._seed = self._declare('seed', 0, 'Fixes the stream of scenes.', (0, 2**31 - 1))
        self._frame_id = self.declare_parameter('frame_id', 'tabletop_camera', ParameterDescriptor(
            description='Frame the images claim to be taken in.', read_only=True)).value
        period = self._declare('scene_period', 5.0, 'Time each scene is shown [s]; 0: until '
                               '~/next is called.', (0.0, 3600.0))
        # Reliable, so that readers of either kind match; one image deep, as cameras are.
        self._images = self.create_publisher(Image, 'image', QoSProfile(depth=1))
        self._scenes = self.create_publisher(String, '~/scene', QoSProfile(depth=100))
        self._index = -1
        self._show_next()
        self.create_timer(1.0 / rate, self._publish)
        if period:
            self.create_timer(period, self._show_next)
        self.create_service(Trigger, '~/next', self._next)

    def _declare(self, name, default, description, span):
        descriptor = ParameterDescriptor(description=description, read_only=True)
        if isinstance(default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=span[0], to_value=span[1])]
        else:
            descriptor.integer_range = [
                IntegerRange(from_value=span[0], to_value=span[1], step=1)]
        return self.declare_parameter(name, default, descriptor).value

    def _show_next(self):
        self._index += 1
        self._scene = nth_scene(self._seed, self._index)
        pixels = render(self._scene, self._size)
        # rclpy takes an array.array as it is; anything else is checked byte by byte.
        self._data = array.array('B', pixels.tobytes())

    def _next(self, _, response: Trigger.Response) -> Trigger.Response:
        self._show_next()
        response.success = True
        response.message = str(self._index)
        return response

    def _publish(self):
        width, height = self._size
        image = Image(height=height, width=width, encoding='rgb8', step=width * 3, data=self._data)
        image.header.stamp = self.get_clock().now().to_msg()
        image.header.frame_id = self._frame_id
        stamp = image.header.stamp
        things = [{**asdict(thing), 'name': thing.name} for thing in self._scene.things]
        # The truth goes first: whoever holds an image can already know what it shows.
        self._scenes.publish(String(data=json.dumps({
            'stamp': {'sec': stamp.sec, 'nanosec': stamp.nanosec}, 'seed': self._seed,
            'index': self._index, 'background': self._scene.background, 'things': things})))
        self._images.publish(image)


def main(args: list[str] | None = None) -> int:
    """Publish until SIGINT or SIGTERM; return the process's exit code."""
    rclpy.init(args=args)
    try:
        rclpy.spin(TabletopPublisher())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except ParameterException as error:
        rclpy.logging.get_logger('tabletop_publisher').fatal(' '.join(str(error).split()))
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
