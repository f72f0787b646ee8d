# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures and questions that a command calibrates on, from its arguments."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuron_chunk_ros.cli import arguments
from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.picture_file import read_picture

_PROMPTS = ('What do you see in the picture?', 'Describe the picture.',
            'How many things are there?', 'What is in front of the camera?')
_SAMPLES = 32
_NONE = ('none of the pictures can be read: give --images a folder of JPEG, PNG or other picture '
         'files')

Fits = Callable[[np.ndarray], None]


def add_arguments(parser: argparse.ArgumentParser, images: bool = True) -> None:
    """Add --images (whether it must be given), --prompt, --samples, --seed, --device."""
    parser.add_argument('--images', metavar='DIR', type=arguments.path, required=images,
                        help='pictures like those the robot will see')
    parser.add_argument('--prompt', metavar='QUESTION', action='append',
                        help='like those it will be asked; give it again for several, they '
                             'take turns (default: some plain ones)')
    parser.add_argument('--samples', metavar='N', type=arguments.whole(1, 1_000_000),
                        help='questions to calibrate on, a picture each (default: as many as '
                             f'there are pictures, {_SAMPLES} at most)')
    parser.add_argument('--seed', type=arguments.seed,
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
    fits: Fits | None = None  # raises RequestError for a picture that the model can't take

    def drawn(self) -> Iterator[tuple[str, list]]:
        """Yield (prompt, [picture]), opening one at a time. Raises RequestError for none."""
        return _samples(self.paths, self.prompts, self.number, self.seed or 0, self.most,
                        self.fits)


def given(args: argparse.Namespace, model: str | os.PathLike) -> Given:
    """Check the arguments.

    :param model: the folder that the pictures are for, a model's or a bundle.
    :raises RequestError, ModelError: for what can't be used.
    """
    return Given(_files(args.images), args.prompt or list(_PROMPTS), args.samples, args.seed,
                 fits=fitting(model))


def fitting(model: str | os.PathLike) -> Fits:
    """Return what raises RequestError for a picture that a model can't take."""
    from neuron_chunk_ros.families import image_check
    from neuron_chunk_ros.prepare.checkpoint import model_config
    return image_check(model_config(Path(model)))


class LeftOut:
    """Pictures that can't be used: counted, and told of in one line at the end."""

    def __init__(self, fits: Fits | None = None):
        self.count, self.first, self._fits = 0, '', fits

    def read(self, path: Path) -> np.ndarray | None:
        """Return a file's picture; None where it is left out."""
        try:
            picture = read_picture(path)
            try:
                if self._fits is not None:
                    self._fits(picture)
            except RequestError as error:
                raise RequestError(f'{path}: {error}') from error
            return picture
        except RequestError as error:
            self.first = self.first or str(error)
            self.count += 1
            return None

    def tell(self, looked_at: int) -> None:
        """Say on stderr how many of those looked at were left out, and why the first was."""
        if self.count:
            print(f'neuron-chunk: note: {self.count} of {looked_at} files were left out, the '
                  f'first: {self.first}', file=sys.stderr)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RequestError(f'{folder}: no such folder of pictures')
    return sorted(path for path in folder.iterdir()
                  if not path.is_dir() and not path.name.startswith('.'))


def _samples(paths: list[Path], prompts: list[str], number: int | None, seed: int,
             most: int = _SAMPLES, fits: Fits | None = None) -> Iterator[tuple[str, list]]:
    """Yield (prompt, [picture]), opening one picture at a time; says how many are left out.

    With fewer pictures than samples the pictures take turns, too, with other prompts each time.
    """
    if not paths:
        raise RequestError(f'{_NONE} (it has no files)')
    wanted = number or min(len(paths), most)
    if wanted < len(paths):
        order = np.random.default_rng(seed).permutation(len(paths))
        paths = [paths[i] for i in order]
    readable, made, looked_at, left_out = [], 0, 0, LeftOut(fits)
    for path in paths:
        if made == wanted:
            break
        looked_at += 1
        picture = left_out.read(path)
        if picture is not None:
            readable.append(path)
            yield prompts[made % len(prompts)], [picture]
            made += 1
    if not readable:
        raise RequestError(f'{_NONE} (the first of {looked_at}: {left_out.first})')
    left_out.tell(looked_at)
    while number and made < number:
        again, at = divmod(made, len(readable))
        yield prompts[(made + again) % len(prompts)], [read_picture(readable[at])]
        made += 1
