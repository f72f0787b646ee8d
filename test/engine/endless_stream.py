# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Append thousands of frames of three cameras to BUNDLE's stream; print what they left behind.

A process of its own: what other tests freed would count as this stream's memory otherwise.
"""

import gc
import json
import sys

import numpy as np

from neuron_chunk_ros.engine.session import Session

CONTEXT, SETTLING, TURNS = 128, 600, 2000


def held():
    """Return (KiB of the process's own memory, Python objects)."""
    gc.collect()
    with open('/proc/self/status') as status:
        anonymous = next(int(line.split()[1]) for line in status if line.startswith('RssAnon'))
    return anonymous, len(gc.get_objects())


def main():
    """Run, and print {highest position, KiB, objects} of growth as JSON."""
    frames = [np.random.default_rng(i).integers(0, 256, (56, 56, 3), np.uint8) for i in range(5)]
    with Session.open(sys.argv[1], max_context=CONTEXT) as session:
        stream = session.stream(window=2, cameras=3)
        highest = before = 0
        for turn in range(TURNS):
            if turn == SETTLING:
                before = held()
            # One camera rarely sends: its frames lie ahead of nearly all holes.
            stream.append(frames[turn % 5], camera='slow' if turn % 50 == 0 else 'ab'[turn % 2])
            if turn >= SETTLING:
                highest = max(highest, stream._end)
                assert len(stream.frames) == 6
        kib, objects = (after - then for after, then in zip(held(), before, strict=True))
    print(json.dumps({'highest': highest, 'kib': kib, 'objects': objects}))


if __name__ == '__main__':
    main()
