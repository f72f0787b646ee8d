# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk ask: one question about picture files, without ROS."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from neuron_chunk_ros.cli import arguments, session_options


def register(subparsers) -> None:
    """Add the sub-command to the parser of `neuron-chunk`."""
    text = 'ask a bundle a question about picture files'
    parser = subparsers.add_parser('ask', help=text, description=f'{text.capitalize()}.')
    session_options.add(parser)
    parser.add_argument('prompt', metavar='QUESTION')
    parser.add_argument('--image', metavar='FILE', action='append', default=[],
                        type=arguments.path,
                        help='a picture; give it again for several')
    parser.add_argument('--max-new-tokens', type=arguments.whole(1, arguments.MOST_TOKENS),
                        metavar='N', default=64)
    parser.add_argument('--deadline', type=arguments.seconds, metavar='SECONDS',
                        help='for the whole answer, which ends there')
    parser.add_argument('--json', action='store_true', help='the answer and its bill')
    parser.set_defaults(run=_ask)


def _ask(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.picture_file import read_picture
    images = [read_picture(path) for path in args.image]
    with session_options.open_session(args) as session:
        answer = session.ask(args.prompt, images, max_new_tokens=args.max_new_tokens,
                             deadline=args.deadline)
        profile = session.profile
    if args.json:
        print(json.dumps(asdict(answer)))
        return 0
    io, timing = answer.io, answer.timing
    print(answer.text)
    coarse = f', coarse ({io.fault or "no time for more"})' if io.coarse else ''
    attention = ('' if io.attention_density == 1 else
                 f', attention {io.attention_density:.0%}')
    print(f'[{answer.finish_reason}{coarse}] {answer.tokens} tokens, '
          f'confidence {answer.confidence:.2f}, '
          f'{timing.total * 1e3:.0f} ms (vision {timing.vision * 1e3:.0f}, prefill '
          f'{timing.prefill * 1e3:.0f}, decode {timing.decode * 1e3:.0f}); '
          f'{io.bytes_read / 1e6:.1f} MB in {io.chunks} chunks by {io.backend}, direct I/O '
          f'{"yes" if io.direct_io else "no"}, rows {io.rows_selected / max(1, io.rows_total):.0%}'
          f'{attention}')
    print(_rates(answer, profile))
    return 0


def _rates(answer, profile) -> str:
    """Return tokens and bytes a second, beside what the drive was measured to give."""
    io, decode = answer.io, answer.timing.decode
    parts = []
    if decode > 0:
        parts.append(f'{(answer.tokens - 1) / decode:.1f} tokens/s')
    if io.read_seconds > 0:
        peak = (f'{1024 / profile.high.kib_seconds / 1e9:.1f} GB/s at best'
                if profile.source == 'measured' and profile.high.kib_seconds else
                'never measured: neuron-chunk profile')
        parts.append(f'{io.bytes_read / io.read_seconds / 1e9:.2f} GB/s while reading '
                     f'(the drive: {peak})')
    parts.append(f'{io.rows_held / max(1, io.rows_selected):.0%} of the rows from memory')
    if io.tokens_drafted:
        parts.append(f'{io.tokens_accepted} of {io.tokens_drafted} drafts right')
    return ', '.join(parts)

