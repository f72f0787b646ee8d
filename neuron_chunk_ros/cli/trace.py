# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk trace: one step as a timeline for chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from neuron_chunk_ros.cli import arguments, session_options

_WARM_UP = 2    # steps of the kind ahead of the one that is written
_TRACKS = {'read': 'flash', 'choose': 'decoder', 'multiply': 'decoder', 'wait': 'decoder'}


def register(subparsers) -> None:
    """Add the sub-command to the parser of `neuron-chunk`."""
    text = 'write one step as a timeline: reading, choosing, waiting, multiplying'
    parser = subparsers.add_parser('trace', help=text, description=f'{text.capitalize()}.')
    session_options.add(parser)
    parser.add_argument('--step', choices=('append', 'prefill', 'decode'), default='append',
                        help='a frame (default), a question with its frame, or a token')
    parser.add_argument('--image', metavar='FILE', type=arguments.path,
                        help='a picture (default: noise)')
    parser.add_argument('--prompt', default='what is there?')
    parser.add_argument('--out', type=arguments.output, default=Path('trace.json'), metavar='FILE')
    parser.set_defaults(run=_trace)


def _trace(args: argparse.Namespace) -> int:
    arguments.check_output(args.out, args.image)
    from neuron_chunk_ros.picture_file import read_picture
    image = read_picture(args.image) if args.image else _noise()
    with session_options.open_session(args) as session:
        step, spans = _record(session, args.step, args.prompt, image)
    from neuron_chunk_ros.storage.atomic import replace_file
    replace_file(args.out, [json.dumps(timeline(step, spans)).encode()])
    reading = step.bytes_read / step.read_seconds / 1e9 if step.read_seconds else 0.0
    print(f'{args.out}: {step.step} of {step.tokens} tokens in {step.seconds * 1e3:.1f} ms '
          f'({step.tokens / max(step.seconds, 1e-9):.1f} tokens/s); '
          f'{step.bytes_read / 1e6:.1f} MB at {reading:.2f} GB/s, '
          f'waited {step.wait_seconds * 1e3:.1f} ms, chose '
          f'{step.select_seconds * 1e3:.1f}, multiplied {step.compute_seconds * 1e3:.1f}')
    return 0


def _noise():
    import numpy as np
    return np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)


def _record(session, kind: str, prompt: str, image):
    """Return the bill and the spans of a step of this kind, after some of the same."""
    found = []
    for turn in range(_WARM_UP + 1):
        steps, spans = [], []
        session.trace(spans if turn == _WARM_UP else None)

        def note(step, steps=steps, spans=spans):
            steps.append((step, list(spans)))
            spans.clear()

        if kind == 'append':
            if not turn:
                stream = session.stream(window=1)
            stream.append(image, on_step=note)
        else:
            session.ask(prompt, [image], max_new_tokens=4, on_step=note)
        found = [pair for pair in steps if pair[0].step == kind] or steps
    session.trace(None)
    return found[-1]


def timeline(step, spans) -> dict:
    """Return spans as trace events; times in microseconds, from the first one's beginning.

    See the Trace Event Format: complete events ('X') on threads that are named by events 'M'.
    """
    start = min((begin for _, _, begin, _ in spans), default=0.0)
    threads = {name: number for number, name in enumerate(dict.fromkeys(_TRACKS.values()))}
    events = [{'ph': 'M', 'pid': 0, 'tid': number, 'name': 'thread_name', 'args': {'name': name}}
              for name, number in threads.items()]
    events += [{'ph': 'X', 'pid': 0, 'tid': threads[_TRACKS[what]], 'name': what,
                'ts': (begin - start) * 1e6, 'dur': (end - begin) * 1e6, 'args': {'group': group}}
               for what, group, begin, end in spans]
    return {'traceEvents': events, 'otherData': {
        'step': step.step, 'tokens': step.tokens, 'seconds': step.seconds,
        'bytes_read': step.bytes_read}}
