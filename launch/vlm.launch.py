# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
r"""Launch the vlm node; without arguments it runs the tabletop model that ships.

A look at the shipped model, then a model of one's own on a robot's camera:

    ros2 launch neuron_chunk_ros vlm.launch.py
    ros2 launch neuron_chunk_ros vlm.launch.py model:=/data/llava.bundle \
        image:=/camera/color/image_raw policy:=optimal sparsity:=0.4
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

# Launch arguments that set a parameter, and the type the parameter has. Left empty, they leave
# the parameter file its say.
_OVERRIDES = {'model': str, 'policy': str, 'sparsity': float}


def _node(context):
    given = {name: LaunchConfiguration(name).perform(context) for name in _OVERRIDES}
    overrides = {}
    for name, text in given.items():
        if text:
            try:
                overrides[name] = _OVERRIDES[name](text)
            except ValueError:
                raise RuntimeError(f'{name}:={text} is not a number, such as 0.4') from None
    return [Node(
        package='neuron_chunk_ros', executable='vlm_node', name='vlm', output='screen',
        namespace=LaunchConfiguration('namespace'),
        parameters=[LaunchConfiguration('params_file'), *([overrides] if overrides else [])],
        remappings=[('image', LaunchConfiguration('image'))],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        # A node that ends over a bad bundle would end again.
        respawn=False)]


def generate_launch_description():
    """Describe the arguments and the node."""
    return LaunchDescription([
        DeclareLaunchArgument(
            'model', default_value='',
            description="Bundle folder, or 'tabletop'; empty: as in params_file"),
        DeclareLaunchArgument(
            'image', default_value='image', description='Image topic to look at'),
        DeclareLaunchArgument(
            'policy', default_value='',
            description='dense, topk, greedy or optimal; empty: as in params_file'),
        DeclareLaunchArgument(
            'sparsity', default_value='',
            description='Share of rows left on flash, 0 to 0.95; empty: as in params_file'),
        DeclareLaunchArgument(
            'namespace', default_value='', description='Namespace of the node'),
        DeclareLaunchArgument(
            'params_file',
            default_value=PathJoinSubstitution(
                [FindPackageShare('neuron_chunk_ros'), 'config', 'vlm.yaml']),
            description='Parameter file'),
        DeclareLaunchArgument(
            'log_level', default_value='info', description='debug, info, warn, error or fatal'),
        OpaqueFunction(function=_node),
    ])
