# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk bench planes."""

from __future__ import annotations

import argparse
from pathlib import Path

from neuron_chunk_ros.cli.arguments import path
from neuron_chunk_ros.cli.bench.arguments import names, outputs, parts, positive
from neuron_chunk_ros.cli.bench.running import bars, check_outputs, folder_of, given, hand_out


def register(commands) -> None:
    """Add the command to the parser of `neuron-chunk bench`."""
    text = 'what is lost against bytes read: rows left out, hot rows held, bases held'
    parser = commands.add_parser('planes', help=text, description=text[0].upper() + text[1:] + '.')
    parser.set_defaults(run=_run)
    parser.add_argument('--exams', type=names, metavar='A,B,...',
                        help='tabletop, prose, easy-vqa (default: tabletop,prose, and easy-vqa '
                             'where --model is given)')
    parser.add_argument('--model', type=path, metavar='MODEL_DIR',
                        help='trained on easy-vqa: RUN_DIR/model of `neuron-chunk tabletop train '
                             'RUN_DIR --world easy-vqa`')
    parser.add_argument('--path', type=path, metavar='DIR',
                        help='a folder for what is fetched from PyPI, and for bundles, which are '
                             'removed (default: the cache folder)')
    parser.add_argument('--splits', type=names, metavar='A,B,...',
                        help='rows in two parts, FORMAT/bits of the base (default: int8/4,int8/3)')
    parser.add_argument('--shares', type=parts, metavar='A,B,...',
                        help='of rows refined or read where others are held (default: '
                             '0,0.1,0.3,0.5,1)')
    parser.add_argument('--no-others', action='store_true',
                        help='bases alone, without what they are compared with')
    parser.add_argument('--questions', type=positive, metavar='N', default=3000,
                        help="of easy-VQA's 9,673 for testing (default 3000)")
    parser.add_argument('--scenes', type=positive, metavar='N', default=300,
                        help='of tabletop, of each of three sorts (default 300)')
    parser.add_argument('--windows', type=positive, metavar='N', default=12,
                        help='of 512 tokens of prose (default 12)')
    outputs(parser, 'a few questions and one window')


def _run(args: argparse.Namespace) -> int:
    import tempfile

    from neuron_chunk_ros.bench import machine
    from neuron_chunk_ros.bench.planes import judges, measure
    from neuron_chunk_ros.bench.planes import report as planes_report
    from neuron_chunk_ros.prepare.checkpoint import Checkpoint
    check_outputs(args)
    folder = folder_of(args)
    if args.model is not None:
        Checkpoint(args.model)  # before anything slow
    if args.quick:
        args.questions, args.scenes, args.windows = 40, 10, 1
    exams = args.exams or ('tabletop', 'prose', *(['easy-vqa'] if args.model else []))
    quick = dict(splits=('int8/4',), refined=(0.0, 0.3, 1.0), read=(0.7,)) if args.quick else {}
    if args.no_others:
        quick |= dict(read=(), out=(), held=False)
    options = measure.PlanesOptions(**{**quick, **given(args, splits='splits', refined='shares')})
    points = []
    with bars() as progress, tempfile.TemporaryDirectory(
            prefix='.neuron-chunk-bench-', dir=folder) as place:
        for name, judge, source, model in judges.judges(
                exams, args.model, folder, questions=args.questions, scenes=args.scenes,
                windows=args.windows, progress=progress):
            points += measure.measure(name, judge, source, model, Path(place), options, progress)
    return hand_out(args, planes_report.report(points, {
        'command': machine.command_line(), 'quick': args.quick,
        'machine': machine.facts(folder)}))
