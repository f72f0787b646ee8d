# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk compress: a model made small by a recipe."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator

from neuron_chunk_ros.cli import arguments, samples
from neuron_chunk_ros.errors import RequestError


def register(subparsers) -> None:
    """Add the sub-command to the parser of `neuron-chunk`."""
    text = 'round and prune a model as a recipe says'
    parser = subparsers.add_parser('compress', help=text, description=f'{text.capitalize()}.')
    parser.add_argument('source', metavar='MODEL_DIR', type=arguments.path_text,
                        help='a Hugging Face model, or a bundle whose rows are not packed')
    parser.add_argument('target', metavar='OUT_DIR', type=arguments.target,
                        help='folder to write; must not exist')
    parser.add_argument('--recipe', metavar='FILE', required=True, type=arguments.path_text,
                        help='a YAML file, or int8, int4, fixed-point, which come along')
    parser.add_argument('--algorithms', metavar='FILE.py', action='append', default=[],
                        type=arguments.path,
                        help='quantisers and pruners of your own; may be repeated')
    parser.add_argument('--questions', metavar='FILE.jsonl', type=arguments.path,
                        help='asked before and after, for the report: a JSON object a line with '
                             'prompt, answer, images and, if you like, type')
    parser.add_argument('--report', metavar='FILE.json', type=arguments.output,
                        help='write there what became of each group')
    parser.add_argument('--figure', metavar='FILE.png', type=arguments.output,
                        help='draw the report there (or .svg, .pdf)')
    parser.add_argument('--allow-non-finite', action='store_true',
                        help='take weights that are NaN or infinite, of a damaged model, where '
                             'they are not rounded')
    samples.add_arguments(parser)
    parser.set_defaults(run=_compress, parser=parser)


def _compress(args: argparse.Namespace) -> int:
    from neuron_chunk_ros import compress
    from neuron_chunk_ros.compress import recipe as recipes
    given = samples.given(args, args.source)
    read = (args.recipe, args.questions, *args.algorithms)
    arguments.check_output(args.report, args.figure, *read)  # not after an hour of work
    arguments.check_figure(args.figure, *read)
    from neuron_chunk_ros.compress.exam import Exam
    exam = Exam.load(args.questions, given.fits) if args.questions else None
    with compress.algorithms_of(args.algorithms):
        recipe = recipes.load(args.recipe)
        given = dataclasses.replace(given, most=recipe.samples, seed=(
            recipe.seed if given.seed is None else given.seed))
        return (_bundle if recipe.fixed_point is None else _integers)(args, recipe, given, exam)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[float], None]]:
    from tqdm import tqdm
    with tqdm(desc='compress', total=1.0, disable=None, leave=False,
              bar_format='{desc}: {percentage:3.0f}% |{bar}| {elapsed} < {remaining}') as bar:
        yield lambda share: bar.update(share - bar.n)


def _tell(args: argparse.Namespace, report) -> None:
    if args.report is not None:
        from neuron_chunk_ros.storage.atomic import replace_file
        replace_file(args.report, [(json.dumps(report.record(), indent=1) + '\n').encode()])
    if args.figure is not None:
        from neuron_chunk_ros.compress.figure import draw
        draw(report, args.figure)
    print(report.text())


def _integers(args: argparse.Namespace, recipe, given: samples.Given, exam) -> int:
    from neuron_chunk_ros.compress.integers import compress
    if args.allow_non_finite:
        raise RequestError('--allow-non-finite: integers of fixed_point are all finite; leave it '
                           'out')
    if args.device != 'cpu':
        raise RequestError(f'--device {args.device}: integers of fixed_point are computed on the '
                           'CPU; leave it out')
    with _bar() as progress:
        _, report = compress(args.source, args.target, recipe, given.drawn(), exam, progress)
    _tell(args, report)
    print(f'{args.target}: integers, golden vectors{"".join(f", {e}" for e in recipe.exports)}')
    return 0


def _bundle(args: argparse.Namespace, recipe, given: samples.Given, exam) -> int:
    from neuron_chunk_ros.compress.bundles import compress
    with _bar() as progress:
        bundle, report = compress(args.source, args.target, recipe, given.drawn(),
                                  device=args.device, exam=exam, progress=progress,
                                  allow_non_finite=args.allow_non_finite)
    _tell(args, report)
    print(f'{bundle.path}: {bundle.flash_bytes / 1e6:.1f} MB for flash, '
          f'{bundle.resident_bytes / 1e6:.1f} MB resident, rows of {bundle.rows}')
    return 0
