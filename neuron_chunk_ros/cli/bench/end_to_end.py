# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk bench end-to-end."""

from __future__ import annotations

import argparse
import dataclasses

from neuron_chunk_ros.cli.arguments import path, seconds
from neuron_chunk_ros.cli.bench.arguments import ceilings, fractions, names, outputs, some_names
from neuron_chunk_ros.cli.bench.running import (
    bars,
    check_decoders,
    check_outputs,
    folder_of,
    given,
    hand_out,
)


def register(commands) -> None:
    """Add the command to the parser of `neuron-chunk bench`."""
    text = 'seconds from a frame to its words beside others, under memory ceilings'
    parser = commands.add_parser('end-to-end', help=text, description=f'Measure {text}.')
    parser.set_defaults(run=_run)
    parser.add_argument('--path', type=path, metavar='DIR',
                        help='a folder on the storage to measure (default: the cache folder that '
                             'bundles lie in); models made there are removed')
    parser.add_argument('--decoders', type=names, metavar='A,B,...',
                        help='whose shapes (default: qwen2-0.5b,qwen2-1.5b)')
    parser.add_argument('--large', action='store_true', help='qwen2-7b as well')
    parser.add_argument('--ceilings', type=ceilings, metavar='A,B,...',
                        help='memory beyond Python and its libraries, as fractions of the '
                             'weights (default: 0.25,0.5,1)')
    parser.add_argument('--sparsities', type=fractions, metavar='A,B,...',
                        help='fractions of rows skipped (default: 0.3,0.5,0.7)')
    parser.add_argument('--rows', type=some_names, metavar='A,B,...',
                        help='packed rows that ours runs from as well, also in two parts, '
                             'as int8/4 (default: int8,int4; '
                             '"" for none)')
    parser.add_argument('--contestants', type=names, metavar='A,B,...',
                        help='ours, transformers, accelerate, llama.cpp (default: all; the last '
                             'where llama-cpp-python and gguf are installed)')
    parser.add_argument('--seconds', type=seconds, metavar='S',
                        help='after which a process measures nothing more (default 180)')
    outputs(parser, 'the smallest decoder at one ceiling, twice')


def _run(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.bench import machine
    from neuron_chunk_ros.bench.end_to_end import measure, report
    from neuron_chunk_ros.bench.shapes import DECODERS
    known = [name for name in DECODERS if name.startswith('qwen2')]
    check_decoders(args, known)
    check_outputs(args)
    folder = folder_of(args)
    quick = dict(decoders=('qwen2-0.5b',), ceilings=(0.5,), sparsities=(0.5,), repeats=2,
                 rows=('int4',), seconds=30.0) if args.quick else {}
    options = measure.EndToEndOptions(folder, **{**quick, **given(
        args, decoders='decoders', ceilings='ceilings', sparsities='sparsities',
        contestants='contestants', rows='rows', repeats='repeats', seconds='seconds')})
    if args.large:
        options = dataclasses.replace(options, decoders=(*options.decoders, 'qwen2-7b'))
    with bars() as progress:
        found = measure.measure(options, progress)
    return hand_out(args, report.report(options, found, {
        'command': machine.command_line(), 'quick': args.quick,
        'machine': machine.facts(folder), 'repeats': options.repeats}))
