# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
r"""Launch the vlm node; without arguments it runs the tabletop model that ships.

A look at the shipped model, then a model of one's own that follows a robot's two cameras:

    ros2 launch neuron_chunk_ros vlm.launch.py
    ros2 launch neuron_chunk_ros vlm.launch.py model:=/data/llava.bundle mode:=stream \
        cameras:=front=/front/image_raw,wrist=/wrist/image_raw policy:=optimal sparsity:=0.4

The node is a managed one. It configures and activates itself; with autostart:=false it waits for
`ros2 lifecycle set /vlm configure` and `activate`, or for the events of a launch file around this
one.
"""

import os
import re

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.substitutions import FindPackageShare

# A node that ended has let go of its topics, and of most of what it kept busy, by then [s].
_RESPAWN_DELAY = 2.0
_LOG_LEVELS = ('debug', 'info', 'warn', 'error', 'fatal')


def _number(name, text):
    try:
        return float(text)
    except ValueError:
        raise RuntimeError(f'{name}:={text} is not a number, such as 0.4') from None


def _truth(name, text):
    if text.lower() not in ('true', 'false'):
        raise RuntimeError(f'{name}:={text} is neither true nor false')
    return text.lower() == 'true'


# Launch arguments that set the parameter of the same name. Left empty, they leave the parameter
# file its say.
_PARAMETERS = {
    'model': (str, "Bundle folder, or 'tabletop'"),
    'policy': (str, 'dense, topk, greedy or optimal'),
    'sparsity': (_number, 'Share of rows left on flash, 0 to 0.95'),
    'deadline_ms': (_number, 'Time a step of the decoder may take [ms]; 0: any'),
    'mode': (str, 'snapshot (look when asked) or stream (follow each frame)'),
    'watch': (str, 'Question to ask at each frame; several go into a parameter file'),
    'autostart': (_truth, 'Configure and activate without being told to: true or false'),
}


def _camera_parameters(text):
    """Return the parameters of 'NAME' and 'NAME=TOPIC' between commas."""
    parameters = {'cameras': []}
    for camera in text.split(','):
        name, given, topic = (part.strip() for part in camera.partition('='))
        if not name or bool(given) != bool(topic):
            raise RuntimeError(f'cameras:={text} is not NAME or NAME=TOPIC between commas, '
                               'such as front,left')
        parameters['cameras'].append(name)
        if topic:
            parameters[f'{name}.topic'] = topic
    return parameters


def _overrides(given):
    """Return the parameters that the arguments in `given` (texts by name) set."""
    parameters = {}
    for name, (kind, _) in _PARAMETERS.items():
        if text := given[name]:
            parameters[name] = text if kind is str else kind(name, text)
    if 'watch' in parameters:
        parameters['watch'] = [parameters['watch']]
    if given['cameras']:
        if given['image'] != 'image':
            raise RuntimeError(f"image:={given['image']} and cameras:={given['cameras']} exclude "
                               'each other; a camera can be given as NAME=TOPIC')
        parameters.update(_camera_parameters(given['cameras']))
    return parameters


def _node(context):
    given = {name: LaunchConfiguration(name).perform(context)
             for name in (*_PARAMETERS, 'cameras', 'image', 'namespace', 'params_file',
                          'log_level', 'respawn')}
    files = [file.strip() for file in given['params_file'].split(',')]
    for file in files:
        # launch_ros would do without it, after a warning.
        if not os.path.isfile(file):
            raise RuntimeError(f"parameter file '{file}' is not there")
    if not re.fullmatch(r'/?([A-Za-z_]\w*(/[A-Za-z_]\w*)*)?', given['namespace'], re.ASCII):
        raise RuntimeError(f"namespace:={given['namespace']} is not letters, digits and _, such "
                           'as robot1 or team/robot1')
    if given['log_level'] not in _LOG_LEVELS:
        raise RuntimeError(f"log_level:={given['log_level']} is none of {', '.join(_LOG_LEVELS)}")
    overrides = _overrides(given)
    return [LifecycleNode(
        package='neuron_chunk_ros', executable='vlm_node', name='vlm', output='screen',
        namespace=given['namespace'],
        parameters=[*files, *([overrides] if overrides else [])],
        remappings=[('image', given['image'])],
        ros_arguments=['--log-level', given['log_level']],
        respawn=_truth('respawn', given['respawn']), respawn_delay=_RESPAWN_DELAY)]


def generate_launch_description():
    """Describe the arguments and the node."""
    return LaunchDescription([
        *(DeclareLaunchArgument(
            name, default_value='', description=f'{description}; empty: as in params_file')
          for name, (_, description) in _PARAMETERS.items()),
        DeclareLaunchArgument(
            'image', default_value='image', description='Image topic, where there is one camera'),
        DeclareLaunchArgument(
            'cameras', default_value='',
            description='Several cameras, NAME or NAME=TOPIC between commas; the topic of a NAME '
                        'alone is NAME/image; empty: as in params_file'),
        DeclareLaunchArgument(
            'namespace', default_value='', description='Namespace of the node'),
        DeclareLaunchArgument(
            'params_file',
            default_value=PathJoinSubstitution(
                [FindPackageShare('neuron_chunk_ros'), 'config', 'vlm.yaml']),
            description='Parameter file, or several between commas; the last one wins'),
        DeclareLaunchArgument(
            'log_level', default_value='info', description=', '.join(_LOG_LEVELS)),
        DeclareLaunchArgument(
            'respawn', default_value='false',
            description='Start the node again, whatever it ended from: true or false'),
        OpaqueFunction(function=_node),
    ])
