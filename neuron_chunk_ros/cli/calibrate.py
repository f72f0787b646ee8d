# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk calibrate, rewrite: learning from pictures which neurons a bundle needs."""

from __future__ import annotations

import argparse

from neuron_chunk_ros.cli import arguments, samples
from neuron_chunk_ros.cli.progress import byte_progress


def register(subparsers) -> None:
    """Add the sub-commands to the parser of `neuron-chunk`."""
    text = 'learn from pictures how much of each group can be skipped, and which rows are hot'
    calibrate = subparsers.add_parser('calibrate', help=text,
                                      description=f'{text.capitalize()}.')
    calibrate.add_argument('bundle', metavar='BUNDLE_DIR', type=arguments.path_text,
                           help='its calibration is replaced')
    samples.add_arguments(calibrate)
    calibrate.set_defaults(run=_calibrate, parser=calibrate)

    text = 'write a bundle anew: other row order, storage layout, or cut of its rows'
    rewrite = subparsers.add_parser('rewrite', help=text, description=f'{text.capitalize()}.')
    rewrite.add_argument('source', metavar='SOURCE_DIR', type=arguments.path_text, help='a bundle')
    rewrite.add_argument('target', metavar='TARGET_DIR', type=arguments.target,
                         help='folder to write; must not exist')
    rewrite.add_argument('--order', choices=('hot-cold', 'original'),
                         help='order of the rows on flash; hot-cold needs a calibration')
    rewrite.add_argument('--layout', choices=('bundled', 'separate'),
                         help='linear layers that share an input side by side, or each alone')
    rewrite.add_argument('--base', type=arguments.whole(2, 4), metavar='BITS',
                         help='of rows in two parts, how many bits to hold in memory; rows stay '
                              'the same to the bit')
    rewrite.set_defaults(run=_rewrite, parser=rewrite)


def _calibrate(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.storage.bundle import Bundle
    Bundle.open(args.bundle)  # before anything slow
    given = samples.given(args, args.bundle)
    from tqdm import tqdm

    from neuron_chunk_ros.prepare.calibrate import calibrate
    with tqdm(desc='calibrate', disable=None, leave=False,
              bar_format='{desc}: {percentage:3.0f}% |{bar}| {elapsed} < {remaining}') as bar:
        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        done = calibrate(args.bundle, given.drawn(), device=args.device,
                         about={'prompts': given.prompts, 'seed': given.seed or 0}, progress=show)
    print(f'{args.bundle}: calibrated on {done["samples"]} samples: budgets and row counts of '
          f'{len(done["groups"])} groups')
    return 0


def _rewrite(args: argparse.Namespace) -> int:
    if args.order is None and args.layout is None and args.base is None:
        args.parser.error('nothing to change: give --order, --layout or --base')
    from neuron_chunk_ros.prepare.rewrite import rewrite
    with byte_progress('rewrite') as progress:
        bundle = rewrite(args.source, args.target, args.order, args.layout, progress, args.base)
    print(f'{bundle.path}: {len(bundle.groups)} groups, {bundle.layout}, {bundle.order} order')
    return 0
