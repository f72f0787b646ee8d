# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures and questions that a command calibrates on, from its arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuron_chunk_ros.errors import RequestError, out_of_memory

_PROMPTS = ('What do you see in the picture?', 'Describe the picture.',
            'How many things are there?', 'What is in front of the camera?')
_SAMPLES = 32


def add_arguments(parser: argparse.ArgumentParser, images: bool = True) -> None:
    """Add --images (whether it must be given), --prompt, --samples, --seed, --device."""
    parser.add_argument('--images', metavar='DIR', type=Path, required=images,
                        help='pictures like those the robot will see')
    parser.add_argument('--prompt', metavar='QUESTION', action='append',
                        help='like those it will be asked; give it again for several, they '
                             'take turns (default: some plain ones)')
    parser.add_argument('--samples', metavar='N', type=int,
                        help='questions to calibrate on, a picture each (default: as many as '
                             f'there are pictures, {_SAMPLES} at most)')
    parser.add_argument('--seed', type=int,
                        help='chooses among the pictures where there are more than samples')
    parser.add_argument('--device', default='cpu', help='torch device (default cpu)')


@dataclass(frozen=True)
class Given:
    """What the arguments say."""

    paths: list[Path]
    prompts: list[str]
    number: int | None
    seed: int | None
    most: int = _SAMPLES  # where no number is given

    def drawn(self) -> Iterator[tuple[str, list]]:
        """Yield (prompt, [picture]), opening one at a time. Raises RequestError for none."""
        return _samples(self.paths, self.prompts, self.number, self.seed or 0, self.most)


def given(args: argparse.Namespace) -> Given:
    """Check the arguments. Raises RequestError."""
    if args.samples is not None and args.samples < 1:
        args.parser.error('--samples must be at least 1')
    return Given(_files(args.images), args.prompt or list(_PROMPTS), args.samples, args.seed)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RequestError(f'{folder}: no such folder of pictures')
    return sorted(path for path in folder.iterdir()
                  if path.is_file() and not path.name.startswith('.'))


def _samples(paths: list[Path], prompts: list[str], number: int | None,
             seed: int, most: int = _SAMPLES) -> Iterator[tuple[str, list]]:
    """Yield (prompt, [picture]), opening one picture at a time; names unreadable ones.

    With fewer pictures than samples the pictures take turns, too, with other prompts each time.
    """
    wanted = number or min(len(paths), most)
    if wanted < len(paths):
        order = np.random.default_rng(seed).permutation(len(paths))
        paths = [paths[i] for i in order]
    readable, made = [], 0
    for path in paths:
        if made == wanted:
            return
        picture = read_picture(path)
        if picture is not None:
            readable.append(path)
            yield prompts[made % len(prompts)], [picture]
            made += 1
    if not readable:
        raise RequestError('none of the pictures can be read: give --images a folder of JPEG, '
                           'PNG or other picture files')
    while number and made < number:
        again, at = divmod(made, len(readable))
        yield prompts[(made + again) % len(prompts)], [read_picture(readable[at])]
        made += 1


def read_picture(path: Path) -> np.ndarray | None:
    """Return a file's picture, uint8 [h, w, 3] RGB; None, and a line, where it is none."""
    from PIL import Image
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert('RGB'))
    except Exception as error:  # Pillow's decoders raise whatever a broken file makes them
        if out_of_memory(error):
            raise
        reason = ' '.join(str(error).split()) or type(error).__name__
        print(f'neuron-chunk: skipped {path}: not a readable picture ({reason})', file=sys.stderr)
        return None
