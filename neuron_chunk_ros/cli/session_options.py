# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What commands that open a session have in common."""

from __future__ import annotations

import argparse
import sys

from neuron_chunk_ros.cli import arguments
from neuron_chunk_ros.errors import RequestError


def add(parser: argparse.ArgumentParser) -> None:
    """Add the bundle and how it is run."""
    parser.add_argument('bundle', metavar='BUNDLE_DIR', type=arguments.path_text,
                        help="a bundle, or 'tabletop'")
    parser.add_argument('--policy', choices=('dense', 'topk', 'greedy', 'optimal'),
                        default='dense')
    parser.add_argument('--sparsity', type=arguments.fraction, default=0.0,
                        help='fraction of the decoder not read')
    parser.add_argument('--text-sparsity', type=arguments.fraction, default=0.0,
                        help='the same for the text of the prompt: for experiments, see README')
    parser.add_argument('--deadline-ms', default=0.0, metavar='MS',
                        type=arguments.number(0, 1000 * arguments.MOST_SECONDS),
                        help='what each step may take, in place of a fraction')
    parser.add_argument('--attention', choices=('dense', 'blindsight'), default='dense',
                        help='how heads attend to images: to everything, or by their classes')
    parser.add_argument('--memory-budget-mb', type=arguments.whole(1, arguments.MOST_MB),
                        metavar='MB',
                        help='for the session; what it leaves holds rows of the decoder')
    parser.add_argument('--device', default='cpu', help='torch device (default cpu)')
    parser.add_argument('--backend', choices=('auto', 'io_uring', 'threads'), default='auto')
    parser.add_argument('--direct', choices=('auto', 'on', 'off'), default='auto',
                        help='reads that bypass the page cache')


def open_session(args: argparse.Namespace):
    """Open the session. Raises NeuronChunkError."""
    from neuron_chunk_ros import Session
    bundle = args.bundle
    if bundle == 'tabletop':
        from neuron_chunk_ros.tabletop.shipped import bundle_dir
        bundle = bundle_dir()
    try:
        session = Session.open(
            bundle, policy=args.policy, sparsity=args.sparsity, text_sparsity=args.text_sparsity,
            deadline_ms=args.deadline_ms, attention=args.attention,
            memory_budget_mb=args.memory_budget_mb,
            device=args.device, backend=args.backend, direct=args.direct)
        for note in session.notes:
            print(f'neuron-chunk: note: {note}', file=sys.stderr)
        return session
    except ValueError as error:
        raise RequestError(str(error)) from error
