# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk calibrate, rewrite: learning from pictures which neurons a bundle needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from neuron_chunk_ros.cli.progress import byte_progress
from neuron_chunk_ros.errors import RequestError

_PROMPTS = ('What do you see in the picture?', 'Describe the picture.',
            'How many things are there?', 'What is in front of the camera?')
_SAMPLES = 32


def register(subparsers) -> None:
    """Add the sub-commands to the parser of `neuron-chunk`."""
    text = 'learn from pictures how much of each group can be skipped, and which rows are hot'
    calibrate = subparsers.add_parser('calibrate', help=text,
                                      description=f'{text.capitalize()}.')
    calibrate.add_argument('bundle', metavar='BUNDLE_DIR', help='its calibration is replaced')
    calibrate.add_argument('--images', metavar='DIR', type=Path, required=True,
                           help='pictures like those the robot will see')
    calibrate.add_argument('--prompt', metavar='QUESTION', action='append',
                           help='like those it will be asked; give it again for several, they '
                                'take turns (default: some plain ones)')
    calibrate.add_argument('--samples', metavar='N', type=int,
                           help='questions to calibrate on, a picture each (default: as many as '
                                f'there are pictures, {_SAMPLES} at most)')
    calibrate.add_argument('--seed', type=int, default=0,
                           help='chooses among the pictures where there are more than samples')
    calibrate.add_argument('--device', default='cpu', help='torch device (default cpu)')
    calibrate.set_defaults(run=_calibrate, parser=calibrate)

    text = 'write a bundle anew in another row order or storage layout'
    rewrite = subparsers.add_parser('rewrite', help=text, description=f'{text.capitalize()}.')
    rewrite.add_argument('source', metavar='SOURCE_DIR', help='a bundle')
    rewrite.add_argument('target', metavar='TARGET_DIR', help='folder to write; must not exist')
    rewrite.add_argument('--order', choices=('hot-cold', 'original'),
                         help='order of the rows on flash; hot-cold needs a calibration')
    rewrite.add_argument('--layout', choices=('bundled', 'separate'),
                         help='linear layers that share an input side by side, or each alone')
    rewrite.set_defaults(run=_rewrite, parser=rewrite)


def _calibrate(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.storage.bundle import Bundle
    if args.samples is not None and args.samples < 1:
        args.parser.error('--samples must be at least 1')
    Bundle.open(args.bundle)  # before anything slow
    paths = _files(args.images)
    from tqdm import tqdm

    from neuron_chunk_ros.prepare.calibrate import calibrate
    prompts = args.prompt or list(_PROMPTS)
    with tqdm(desc='calibrate', disable=None, leave=False,
              bar_format='{desc}: {percentage:3.0f}% |{bar}| {elapsed} < {remaining}') as bar:
        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        done = calibrate(args.bundle, _samples(paths, prompts, args.samples, args.seed),
                         device=args.device, about={'prompts': prompts, 'seed': args.seed},
                         progress=show)
    print(f'{args.bundle}: calibrated on {done["samples"]} samples: budgets and row counts of '
          f'{len(done["groups"])} groups')
    return 0


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RequestError(f'{folder}: no such folder of pictures')
    return sorted(path for path in folder.iterdir()
                  if path.is_file() and not path.name.startswith('.'))


def _samples(paths: list[Path], prompts: list[str], number: int | None,
             seed: int) -> Iterator[tuple[str, list]]:
    """Yield (prompt, [picture]), opening one picture at a time; names unreadable ones.

    With fewer pictures than samples the pictures take turns, too, with other prompts each time.
    """
    wanted = number or min(len(paths), _SAMPLES)
    if wanted < len(paths):
        order = np.random.default_rng(seed).permutation(len(paths))
        paths = [paths[i] for i in order]
    readable, made = [], 0
    for path in paths:
        if made == wanted:
            return
        picture = _picture(path)
        if picture is not None:
            readable.append(path)
            yield prompts[made % len(prompts)], [picture]
            made += 1
    if not readable:
        raise RequestError('none of the pictures can be read: give --images a folder of JPEG, '
                           'PNG or other picture files')
    while number and made < number:
        again, at = divmod(made, len(readable))
        yield prompts[(made + again) % len(prompts)], [_picture(readable[at])]
        made += 1


def _picture(path: Path) -> np.ndarray | None:
    from PIL import Image
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert('RGB'))
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them
        reason = ' '.join(str(error).split()) or type(error).__name__
        print(f'neuron-chunk: skipped {path}: not a readable picture ({reason})', file=sys.stderr)
        return None


def _rewrite(args: argparse.Namespace) -> int:
    if args.order is None and args.layout is None:
        args.parser.error('nothing to change: give --order or --layout')
    from neuron_chunk_ros.prepare.rewrite import rewrite
    with byte_progress('rewrite') as progress:
        bundle = rewrite(args.source, args.target, args.order, args.layout, progress)
    print(f'{bundle.path}: {len(bundle.groups)} groups, {bundle.layout}, {bundle.order} order')
    return 0
