# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
r"""Launch one vlm node for each of several robots, under the robot's name as namespace.

    ros2 launch neuron_chunk_ros fleet.launch.py robots:=robot1,robot2 \
        image:=camera/image_raw model:=/data/llava.bundle params_dir:=/etc/fleet

robot1's node is /robot1/vlm and looks at /robot1/camera/image_raw; what only holds for it is in
/etc/fleet/robot1.yaml. All arguments of vlm.launch.py but namespace are passed on to every node.
ROS_DOMAIN_ID and RMW_IMPLEMENTATION hold for the nodes as for anything in ROS.
"""

import os
import re

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

_VLM = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'vlm.launch.py')


def _robots(text):
    """Return the names between commas.

    :raises RuntimeError: a name can't be a namespace, or comes twice.
    """
    robots = [name.strip() for name in text.split(',')]
    for robot in robots:
        if not re.fullmatch(r'[A-Za-z_]\w*', robot, re.ASCII):
            raise RuntimeError(f"robots:={text} names a robot '{robot}'; a name is letters, "
                               'digits and _, and begins with no digit')
        if robots.count(robot) > 1:
            raise RuntimeError(f"robots:={text} names '{robot}' twice")
    return robots


def _nodes(context):
    folder, file, image, robots = (
        LaunchConfiguration(name).perform(context)
        for name in ('params_dir', 'params_file', 'image', 'robots'))
    robots = _robots(robots)
    if image.startswith('/') and len(robots) > 1:
        raise RuntimeError(f'image:={image} is one topic for all robots; without the / in front '
                           "it lies in each robot's namespace")
    actions = []
    for robot in robots:
        own = [os.path.join(folder, f'{robot}.yaml')] if folder else []
        arguments = [('namespace', robot), ('params_file', ','.join([file, *own]))]
        # A group of its own: what one include sets stays unknown to the next.
        actions.append(GroupAction([IncludeLaunchDescription(
            PythonLaunchDescriptionSource(_VLM), launch_arguments=arguments)]))
    return actions


def generate_launch_description():
    """Describe the arguments, those of vlm.launch.py among them, and the nodes."""
    vlm = PythonLaunchDescriptionSource(_VLM).get_launch_description(LaunchContext())
    return LaunchDescription([
        DeclareLaunchArgument('robots', description='Names of the robots, between commas'),
        DeclareLaunchArgument(
            'params_dir', default_value='',
            description='Folder with a parameter file for each robot, ROBOT.yaml, whose word '
                        'comes after params_file; empty: none'),
        *(argument for argument in vlm.entities
          if isinstance(argument, DeclareLaunchArgument) and argument.name != 'namespace'),
        OpaqueFunction(function=_nodes),
    ])
