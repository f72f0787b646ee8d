# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk monitor: one node's answers, reading and health, live in a terminal."""

from __future__ import annotations

import argparse

from neuron_chunk_ros.cli import arguments
from neuron_chunk_ros.errors import NeuronChunkError


def register(subparsers) -> None:
    """Add the sub-command to the parser of `neuron-chunk`."""
    text = "watch a vlm node's answers, reading and health"
    parser = subparsers.add_parser(
        'monitor', help=text,
        description=f'{text.capitalize()}. Needs ROS 2. It only listens. q quits, Ctrl-L draws '
                    'anew. Where the output is no terminal: one line an answer and a change of a '
                    'diagnostic level.')
    parser.add_argument('--node', metavar='NAME', default='',
                        help='such as vlm or /robot1/vlm (default: the only one)')
    parser.add_argument('--namespace', metavar='NAME', help='look only there')
    parser.add_argument('--once', metavar='SECONDS', type=arguments.seconds, nargs='?', const=3.0,
                        help='listen that long (default 3), print all that is known, and end')
    parser.set_defaults(run=_monitor)


def _monitor(args: argparse.Namespace) -> int:
    try:
        from neuron_chunk_ros.programs.monitor.runner import run
    except ImportError as error:
        raise NeuronChunkError(
            f'monitor needs ROS 2 and rich, and {error.name} is missing: source the setup.bash of '
            'ROS 2 and of your workspace') from error
    return run(args.node, args.namespace, args.once)
