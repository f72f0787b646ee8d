# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk bench stream."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from neuron_chunk_ros.cli.arguments import MOST_SECONDS, fraction, number, path_text
from neuron_chunk_ros.cli.bench.arguments import counts, outputs
from neuron_chunk_ros.cli.bench.running import bars, check_outputs, given, hand_out


def register(commands) -> None:
    """Add the command to the parser of `neuron-chunk bench`."""
    text = 'what appending frames is worth to the questions about them'
    parser = commands.add_parser('stream', help=text, description=f'Measure {text}.')
    parser.set_defaults(run=_run)
    parser.add_argument('bundle', metavar='BUNDLE', type=path_text,
                        help="a bundle, or 'tabletop'")
    parser.add_argument('--frames', type=counts, metavar='A,B,...',
                        help='frames in view of a question (default: 1,2,4)')
    parser.add_argument('--policies', metavar='A,B,...',
                        type=lambda text: tuple(dict.fromkeys(text.split(','))),
                        help='to choose rows by (default: dense,optimal)')
    parser.add_argument('--sparsity', type=fraction, metavar='FRACTION',
                        help='of the decoder not read for frames and words, of every policy but '
                             'dense (default 0.5)')
    parser.add_argument('--deadline-ms', metavar='MS',
                        type=number(0, 1000 * MOST_SECONDS),
                        help='have these policies also keep each step to this')
    outputs(parser, 'two repeats in place of five')


def _run(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.bench import machine
    from neuron_chunk_ros.bench.stream import measure as stream
    from neuron_chunk_ros.bench.stream import report as stream_report
    check_outputs(args)
    bundle = Path(args.bundle)
    if args.bundle == 'tabletop':
        from neuron_chunk_ros.tabletop.shipped import bundle_dir
        bundle = bundle_dir()
    options = stream.StreamOptions(bundle, **{**(dict(repeats=2) if args.quick else {}), **given(
        args, frames='frames', policies='policies', sparsity='sparsity',
        deadline_ms='deadline_ms', repeats='repeats')})
    with bars() as progress:
        measured = stream.measure(options, progress)
    return hand_out(args, stream_report.report(options, measured, {
        'command': _without_bundle(machine.command_line(), args.bundle), 'quick': args.quick,
        'machine': machine.facts(bundle), 'repeats': options.repeats,
        'new_tokens': options.new_tokens, 'seed': options.seed}))


def _without_bundle(command: str, bundle: str) -> str:
    """Leave out where a bundle lies, which is the user's affair."""
    begin, words = shlex.split(command)[:3], shlex.split(command)[3:]
    return shlex.join(begin + [
        'BUNDLE' if word == bundle != 'tabletop' else word for word in words])
