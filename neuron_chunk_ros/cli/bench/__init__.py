# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk bench accuracy, attention, end-to-end, planes, read, select, stream, text."""

from __future__ import annotations

from neuron_chunk_ros.cli.bench import attention, end_to_end, planes, reading, stream, text


def register(subparsers) -> None:
    """Add the sub-commands to the parser of `neuron-chunk`."""
    about = 'measure answers, accuracy, reading and selecting on this machine'
    parser = subparsers.add_parser('bench', help=about, description=f'{about.capitalize()}.')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for part in (reading, stream, end_to_end, text, planes, attention):
        part.register(commands)
