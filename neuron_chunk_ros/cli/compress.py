# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk compress: a model made small by a recipe."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from neuron_chunk_ros.cli import samples
from neuron_chunk_ros.errors import RequestError

_PICTURES = ('.png', '.svg', '.pdf')


def register(subparsers) -> None:
    """Add the sub-command to the parser of `neuron-chunk`."""
    text = 'round and prune a model as a recipe says'
    parser = subparsers.add_parser('compress', help=text, description=f'{text.capitalize()}.')
    parser.add_argument('source', metavar='MODEL_DIR',
                        help='a Hugging Face model, or a bundle whose rows are not packed')
    parser.add_argument('target', metavar='OUT_DIR', help='folder to write; must not exist')
    parser.add_argument('--recipe', metavar='FILE', required=True,
                        help='a YAML file, or int8, int4, fixed-point, which come along')
    parser.add_argument('--algorithms', metavar='FILE.py', action='append', type=Path, default=[],
                        help='quantisers and pruners of your own; may be repeated')
    parser.add_argument('--questions', metavar='FILE.jsonl', type=Path,
                        help='asked before and after, for the report: a JSON object a line with '
                             'prompt, answer, images and, if you like, type')
    parser.add_argument('--report', metavar='FILE.json', type=Path,
                        help='write there what became of each group')
    parser.add_argument('--figure', metavar='FILE.png', type=Path,
                        help='draw the report there (or .svg, .pdf)')
    samples.add_arguments(parser)
    parser.set_defaults(run=_compress, parser=parser)


def _compress(args: argparse.Namespace) -> int:
    from neuron_chunk_ros import compress
    from neuron_chunk_ros.compress import recipe as recipes
    given = samples.given(args)
    for path in filter(None, (args.report, args.figure)):  # not after an hour of work
        if not path.absolute().parent.is_dir():
            raise RequestError(f'{path}: its folder does not exist')
    if args.figure is not None and args.figure.suffix not in _PICTURES:
        raise RequestError(f'{args.figure}: a figure is one of {", ".join(_PICTURES)}')
    from neuron_chunk_ros.compress.exam import Exam
    exam = Exam.load(args.questions) if args.questions else None
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
    with _bar() as progress:
        _, report = compress(args.source, args.target, recipe, given.drawn(), exam, progress)
    _tell(args, report)
    print(f'{args.target}: integers, golden vectors{"".join(f", {e}" for e in recipe.exports)}')
    return 0


def _bundle(args: argparse.Namespace, recipe, given: samples.Given, exam) -> int:
    from neuron_chunk_ros.compress.bundles import compress
    with _bar() as progress:
        bundle, report = compress(args.source, args.target, recipe, given.drawn(),
                                  device=args.device, exam=exam, progress=progress)
    _tell(args, report)
    print(f'{bundle.path}: {bundle.flash_bytes / 1e6:.1f} MB for flash, '
          f'{bundle.resident_bytes / 1e6:.1f} MB resident, rows of {bundle.rows}')
    return 0
