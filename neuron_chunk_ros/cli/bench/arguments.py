# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Options that several benchmarks have, and what their values may be."""

from __future__ import annotations

import argparse

from neuron_chunk_ros.cli.arguments import fraction, number, output, path, several, whole

positive = whole(1)
counts = several(positive)                    # whole numbers from 1 on
parts = several(number(0, 1))                 # shares from none to all
fractions = several(fraction)
ceilings = several(number(above=0, most=4))   # of memory, as shares of the weights


def outputs(parser: argparse.ArgumentParser, quick: str) -> None:
    """Add what every benchmark has: repeats, quick, and where to write; quick: what it does."""
    parser.add_argument('--repeats', type=positive, metavar='N',
                        help='measurements that a median is taken of')
    parser.add_argument('--quick', action='store_true', help=quick)
    parser.add_argument('--json', type=output, metavar='FILE', help='write every figure there')
    parser.add_argument('--out', type=path, metavar='DIR',
                        help='write CSV and pictures there (default: docs/benchmarks in a '
                             'checkout, else ./bench; nowhere with --quick)')


def names(text: str) -> tuple[str, ...]:
    """Return names, each once."""
    return tuple(dict.fromkeys(text.split(',')))


def some_names(text: str) -> tuple[str, ...]:
    """Return names, none for an empty text."""
    return names(text) if text else ()
