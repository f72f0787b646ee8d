# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk ask: one question about picture files, without ROS."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from neuron_chunk_ros.errors import RequestError


def register(subparsers) -> None:
    """Add the sub-command to the parser of `neuron-chunk`."""
    text = 'ask a bundle a question about picture files'
    parser = subparsers.add_parser('ask', help=text, description=f'{text.capitalize()}.')
    parser.add_argument('bundle', metavar='BUNDLE_DIR', help="a bundle, or 'tabletop'")
    parser.add_argument('prompt', metavar='QUESTION')
    parser.add_argument('--image', metavar='FILE', action='append', default=[],
                        help='a picture; give it again for several')
    parser.add_argument('--policy', choices=('dense', 'topk', 'greedy', 'optimal'),
                        default='dense')
    parser.add_argument('--sparsity', type=float, default=0.0,
                        help='fraction of the decoder not read')
    parser.add_argument('--text-sparsity', type=float, default=0.0,
                        help='the same for the text of the prompt')
    parser.add_argument('--deadline-ms', type=float, default=0.0, metavar='MS',
                        help='what each step may take, in place of a fraction')
    parser.add_argument('--max-new-tokens', type=int, default=64)
    parser.add_argument('--deadline', type=float, metavar='SECONDS',
                        help='for the whole answer, which ends there')
    parser.add_argument('--memory-budget-mb', type=int)
    parser.add_argument('--device', default='cpu', help='torch device (default cpu)')
    parser.add_argument('--backend', choices=('auto', 'io_uring', 'threads'), default='auto')
    parser.add_argument('--direct', choices=('auto', 'on', 'off'), default='auto',
                        help='reads that bypass the page cache')
    parser.add_argument('--json', action='store_true', help='the answer and its bill')
    parser.set_defaults(run=_ask)


def _ask(args: argparse.Namespace) -> int:
    from neuron_chunk_ros import Session
    images = [_picture(path) for path in args.image]
    bundle = args.bundle
    if bundle == 'tabletop':
        from neuron_chunk_ros.tabletop.shipped import bundle_dir
        bundle = bundle_dir()
    try:
        session = Session.open(
            bundle, policy=args.policy, sparsity=args.sparsity, text_sparsity=args.text_sparsity,
            deadline_ms=args.deadline_ms, memory_budget_mb=args.memory_budget_mb,
            device=args.device, backend=args.backend, direct=args.direct)
    except ValueError as error:
        raise RequestError(str(error)) from error
    with session:
        answer = session.ask(args.prompt, images, max_new_tokens=args.max_new_tokens,
                             deadline=args.deadline)
    if args.json:
        print(json.dumps(asdict(answer)))
        return 0
    io, timing = answer.io, answer.timing
    print(answer.text)
    print(f'[{answer.finish_reason}] {answer.tokens} tokens, confidence {answer.confidence:.2f}, '
          f'{timing.total * 1e3:.0f} ms (vision {timing.vision * 1e3:.0f}, prefill '
          f'{timing.prefill * 1e3:.0f}, decode {timing.decode * 1e3:.0f}); '
          f'{io.bytes_read / 1e6:.1f} MB in {io.chunks} chunks by {io.backend}, direct I/O '
          f'{"yes" if io.direct_io else "no"}, rows {io.rows_selected / io.rows_total:.0%}')
    return 0


def _picture(path: str):
    import numpy as np
    from PIL import Image
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert('RGB'))
    except OSError as error:
        raise RequestError(f'{path}: not a readable picture ({error})') from error
