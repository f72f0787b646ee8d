# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Options that several benchmarks have, and what their values may be."""

from __future__ import annotations

import argparse
from pathlib import Path


def outputs(parser: argparse.ArgumentParser, quick: str) -> None:
    """Add what every benchmark has: repeats, quick, and where to write; quick: what it does."""
    parser.add_argument('--repeats', type=positive, metavar='N',
                        help='measurements that a median is taken of')
    parser.add_argument('--quick', action='store_true', help=quick)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write every figure there')
    parser.add_argument('--out', type=Path, metavar='DIR',
                        help='write CSV and pictures there (default: docs/benchmarks in a '
                             'checkout, else ./bench; nowhere with --quick)')


def names(text: str) -> tuple[str, ...]:
    """Return names, each once."""
    return tuple(dict.fromkeys(text.split(',')))


def some_names(text: str) -> tuple[str, ...]:
    """Return names, none for an empty text."""
    return names(text) if text else ()


def parts(text: str) -> tuple[float, ...]:
    """Return shares from none to all, ascending. Raises ArgumentTypeError."""
    values = tuple(sorted({float(part) for part in text.split(',')}))
    if not all(0 <= value <= 1 for value in values):
        raise argparse.ArgumentTypeError('shares must be from 0 to 1')
    return values


def ceilings(text: str) -> tuple[float, ...]:
    """Return ceilings, ascending. Raises ArgumentTypeError."""
    values = tuple(sorted({float(part) for part in text.split(',')}))
    if not all(0 < value <= 4 for value in values):
        raise argparse.ArgumentTypeError('ceilings must be above 0 and at most 4')
    return values


def counts(text: str) -> tuple[int, ...]:
    """Return whole numbers from 1 on, ascending. Raises ArgumentTypeError."""
    return tuple(sorted({positive(part) for part in text.split(',')}))


def positive(text: str) -> int:
    """Return a whole number from 1 on. Raises ArgumentTypeError."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError('must be at least 1')
    return value


def fractions(text: str) -> tuple[float, ...]:
    """Return fractions, ascending. Raises ArgumentTypeError."""
    values = tuple(sorted({float(part) for part in text.split(',')}))
    if not all(0 <= value < 1 for value in values):
        raise argparse.ArgumentTypeError('fractions must be at least 0 and below 1')
    return values
