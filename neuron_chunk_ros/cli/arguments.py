# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What arguments may be: numbers in their ranges, and paths; the rest is a usage error."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from neuron_chunk_ros.errors import RequestError

MOST_MB = 1 << 24      # 16 TiB
MOST_TOKENS = 1 << 24
MOST_SECONDS = 1e7     # four months
_PICTURES = ('.png', '.svg', '.pdf')
_MOST_SEED = (1 << 63) - 1


def whole(least: int = 0, most: int = 10**9) -> Callable[[str], int]:
    """Return a type for whole numbers within a range."""
    def whole_number(text: str) -> int:
        try:
            value = int(text) if len(text) < 40 else None  # int() refuses thousands of digits
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f'{_shown(text)}: want a whole number from {least} to {most}')
        return value
    return whole_number


def number(least: float = 0.0, most: float = 1e9, *, above: float | None = None,
           below: float | None = None) -> Callable[[str], float]:
    """Return a type for numbers within a range, its ends in it; above, below: ends that aren't."""
    lower = f'above {above}' if above is not None else f'of at least {least:.0f}'
    upper = f'below {below}' if below is not None else f'at most {most:.0f}'

    def real_number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float('nan')
        inside = (value > above if above is not None else value >= least) and (
            value < below if below is not None else value <= most)
        if not inside:
            raise argparse.ArgumentTypeError(f'{_shown(text)}: want a number {lower} and {upper}')
        return value
    return real_number


seed = whole(0, _MOST_SEED)
seconds = number(above=0, most=MOST_SECONDS)
fraction = number(0, below=1)


def several(kind: Callable[[str], float]) -> Callable[[str], tuple]:
    """Return a type for numbers of a kind with commas between, each once, ascending."""
    def numbers(text: str) -> tuple:
        return tuple(sorted({kind(part) for part in text.split(',')}))
    return numbers


def path_text(text: str) -> str:
    """Return a path, '~' replaced where the shell left it; it may be the name of a thing, too."""
    if not text:
        raise argparse.ArgumentTypeError('the path is empty')
    return os.path.expanduser(text)


def path(text: str) -> Path:
    """Return a path."""
    return Path(path_text(text))


def target(text: str) -> Path:
    """Return the path of a folder to make, which must not exist yet."""
    return path(text)


def output(text: str) -> Path:
    """Return the path of a file to write; see check_output."""
    return path(text)


def check_output(file: Path | None, *inputs: str | os.PathLike | None) -> None:
    """Refuse, before anything slow, a file that can't be written or that would be lost by it.

    :param file: to write; None for none.
    :param inputs: files that are read, and other files that are written.
    :raises RequestError: with the cure.
    """
    if file is None:
        return
    folder = file.absolute().parent
    if not folder.is_dir():
        raise RequestError(f'{file}: {folder}: no such folder to write to; create it first')
    if file.is_dir():
        raise RequestError(f'{file} is a folder: give the name of a file to write')
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise RequestError(f'{file}: can not be written: choose another place')
    for other in inputs:
        if other is not None and _same(file, Path(other)):
            raise RequestError(f'{file}: is given twice, and what it holds would be lost: '
                               'choose another file to write')


def check_figure(file: Path | None, *inputs: str | os.PathLike | None) -> None:
    """Refuse a picture that can't be drawn, too; see check_output."""
    check_output(file, *inputs)
    if file is not None and file.suffix.lower() not in _PICTURES:
        raise RequestError(f'{file}: a picture ends in {", ".join(_PICTURES)}')


def _same(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + '...')
