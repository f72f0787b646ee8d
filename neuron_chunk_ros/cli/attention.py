# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk attention characterize, show: which heads look at other images."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from neuron_chunk_ros.cli import arguments, samples
from neuron_chunk_ros.errors import BundleError, RequestError
from neuron_chunk_ros.plain_file import read_text

_MOST_BYTES = 64 << 20  # of a file of prompts
_COUNTS = (2, 3, 4, 6, 8)


def register(subparsers) -> None:
    """Add the sub-commands to the parser of `neuron-chunk`."""
    text = 'learn which heads never look at other images, and show them (BlindSight)'
    parser = subparsers.add_parser('attention', help=text, description=f'{text.capitalize()}.')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    learn = commands.add_parser('characterize', help='give each head a class, on prompts with '
                                                     'several images')
    learn.add_argument('bundle', metavar='BUNDLE_DIR', type=arguments.path_text,
                       help='its classes are replaced')
    samples.add_arguments(learn, images=False)
    learn.add_argument('--prompts', metavar='FILE', type=arguments.path,
                       help='JSON lines with "prompt" and "images", a list of files beside FILE, '
                            'instead of --images and --prompt (tabletop draw writes such)')
    learn.add_argument('--counts', metavar='A,B,...', default=_COUNTS,
                       type=_counts,
                       help='images of a prompt, in turns, 2 or more (default '
                            f'{",".join(map(str, _COUNTS))}; with --images)')
    learn.add_argument('--drift', metavar='NATS', default=0.001,
                       type=arguments.number(above=0, most=100),
                       help="how far the first word's distribution may drift, mean KL divergence "
                            '(default 0.001)')
    learn.add_argument('--tolerance', metavar='SHARE', type=arguments.number(0, 100),
                       help="relative error of a head's output, instead of searching for it")
    learn.add_argument('--schedule', choices=('constant', 'linear'), default='constant',
                       help='of the tolerance over the layers (default constant)')
    learn.add_argument('--memory-budget-mb', metavar='MB',
                       type=arguments.whole(1, arguments.MOST_MB),
                       help='to run the model in (default: none)')
    learn.add_argument('--max-context', metavar='N', default=4096,
                       type=arguments.whole(1, arguments.MOST_TOKENS))
    learn.set_defaults(run=_characterize, parser=learn)

    show = commands.add_parser('show', help='draw layers and heads')
    show.add_argument('bundle', metavar='BUNDLE_DIR', type=arguments.path_text)
    show.add_argument('--figure', metavar='FILE', type=arguments.output,
                      help='a picture, as PNG or SVG')
    show.add_argument('--json', action='store_true', help='for programs')
    show.set_defaults(run=_show)


def _counts(text: str) -> tuple[int, ...]:
    kind = arguments.whole(2, 64)
    return tuple(kind(part) for part in text.split(','))


def _characterize(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from neuron_chunk_ros.attention.templates import NAMES
    from neuron_chunk_ros.engine.device import check_device
    from neuron_chunk_ros.prepare.characterize import characterize
    from neuron_chunk_ros.storage.bundle import Bundle
    Bundle.open(args.bundle)  # before anything slow
    try:
        check_device(args.device)
    except ValueError as error:
        raise RequestError(str(error)) from error
    prompts = list(_from_file(args) if args.prompts else _from_pictures(args))
    with tqdm(desc='characterize', disable=None, leave=False) as bar:
        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = characterize(
            args.bundle, prompts, most_drift=args.drift, tolerance=args.tolerance,
            schedule=args.schedule, progress=show, device=args.device,
            memory_budget_mb=args.memory_budget_mb, max_context=args.max_context,
            about={'seed': args.seed or 0, 'images': sorted({len(i) for _, i in prompts})})
    about, heads = found['about'], [kind for layer in found['heads'] for kind in layer]
    shares = ', '.join(f'{heads.count(kind)} {name}' for kind, name in enumerate(NAMES))
    print(f'{args.bundle}: of {len(heads)} heads {shares}; {about["density"]:.0%} of attention to '
          f'images is left, the first word drifts by {about["drift"]} nats (tolerance '
          f'{about["tolerance"]}, {about["prompts"]} prompts)')
    return 0


def _from_pictures(args: argparse.Namespace):
    """Yield (prompt, images): neighbours in a shuffled folder, as many as --counts has in turn."""
    import itertools

    import numpy as np
    if args.images is None:
        raise RequestError('give --images DIR, or --prompts FILE')
    given = samples.given(args, args.bundle)
    pictures = [images[0] for _, images in dataclasses.replace(
        given, number=None, most=len(given.paths)).drawn()]
    rng = np.random.default_rng(given.seed or 0)
    for number, count in zip(range(given.number or given.most), itertools.cycle(args.counts)):
        chosen = rng.choice(len(pictures), count, replace=count > len(pictures))
        yield given.prompts[number % len(given.prompts)], [pictures[at] for at in chosen]


def _from_file(args: argparse.Namespace):
    """Yield (prompt, images) of the lines with several images. Raises RequestError."""
    folder, made = args.prompts.parent, 0
    try:
        lines = [json.loads(line) for line in read_text(args.prompts, _MOST_BYTES).splitlines()
                 if line]
        wanted = [(str(line['prompt']), [folder / name for name in line['images']])
                  for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f'{args.prompts}: not JSON lines with "prompt" and "images" '
                           f'({error})') from error
    looked_at, left_out = 0, samples.LeftOut(samples.fitting(args.bundle))
    for prompt, paths in wanted:
        if len(paths) < 2 or (args.samples is not None and made == args.samples):
            continue
        looked_at += len(paths)
        images = [left_out.read(path) for path in paths]
        if all(image is not None for image in images):
            made += 1
            yield prompt, images
    left_out.tell(looked_at)


def _show(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.attention.templates import NAMES
    from neuron_chunk_ros.storage.bundle import Bundle
    arguments.check_figure(args.figure)
    attention = Bundle.open(args.bundle).attention
    if attention is None:
        raise BundleError(f'{args.bundle}: no classes of heads; make them with: neuron-chunk '
                          f'attention characterize {args.bundle} --images DIR')
    if args.json:
        print(json.dumps({**attention, 'classes': NAMES}))
        return 0
    letters = 'D+IS'
    print('  '.join(f'{letter} {name}' for letter, name in zip(letters, NAMES, strict=True)))
    for number, layer in enumerate(attention['heads']):
        print(f'layer {number:>3}  {"".join(letters[kind] for kind in layer)}')
    print(', '.join(f'{key} {value}' for key, value in attention['about'].items()))
    if args.figure is not None:
        _draw(attention['heads'], NAMES, args.figure)
    return 0


def _draw(heads: list[list[int]], names, path: Path) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from neuron_chunk_ros.figure_file import save_figure
    colours = ('#222222', '#0072B2', '#56B4E9', '#E69F00')
    figure = Figure(figsize=(1.5 + 0.25 * len(heads[0]), 1.5 + 0.22 * len(heads)),
                    layout='constrained')
    axis = figure.subplots()
    axis.imshow(heads, cmap=ListedColormap(colours), vmin=0, vmax=len(names) - 1, aspect='auto')
    axis.set_xlabel('head')
    axis.set_ylabel('layer')
    figure.legend(handles=[Patch(color=colour, label=name)
                           for colour, name in zip(colours, names, strict=True)],
                  loc='outside lower center', ncols=2, frameon=False, fontsize=8)
    save_figure(figure, path, dpi=120)
