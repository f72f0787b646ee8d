# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Calls everything of `neuron_chunk_ros._native` with hostile arguments, from several threads.

A crash, a call over two seconds, memory that grows, a wrong result or an error other than
ValueError, TypeError, ReadError, MemoryError and OverflowError is found, and said with its seed.
"""

import inspect
import warnings

import numpy as np
from support import hostile, number_calls, reader_calls, watched

from neuron_chunk_ros import _native

COVERED = {*number_calls.MADE, 'Batch', 'Buffer', 'ReadError', 'ReadStats', 'Reader'}


def call(rng, watch):
    """Call one function."""
    name = hostile.pick(rng, sorted(number_calls.MADE))
    arguments = number_calls.arguments_of(rng, name)
    if arguments is None:
        return
    watch(f'{name}(' + ', '.join(f'{key}={hostile.described(value)}'
                                 for key, value in arguments.items()) + ')')
    try:
        result = getattr(_native, name)(**arguments)
    except reader_calls.REFUSALS as error:
        if not str(error).strip() and not isinstance(error, MemoryError):
            raise watched.Finding(f'{type(error).__name__} that says nothing') from error
        return
    check = number_calls.CHECKS.get(name)
    if check:
        check(arguments, result)


def call_in_threads(rng, watch):
    """Several functions at the same time; they share the pool and the memory."""
    texts = []

    def say(text):
        texts.append(text)
        watch('\n'.join(texts[-4:]))

    reader_calls.in_threads(rng, 4, 6, lambda own: call(own, say))


def run_case(rng, watch):
    """Make one case."""
    kind = rng.integers(10)
    if kind < 6:
        for _ in range(8):
            call(rng, watch)
    elif kind < 7:
        call_in_threads(rng, watch)
    elif kind < 9:
        reader_calls.live(rng, watch)
    else:
        reader_calls.live_in_threads(rng, watch)


if __name__ == '__main__':
    known = {name for name in vars(_native) if name[0] != '_'}
    if known != COVERED:
        raise SystemExit(f'native_calls: not known here: {sorted(known ^ COVERED)}')
    warnings.simplefilter('ignore')
    np.seterr(all='ignore')
    watched.main(run_case, inspect.getdoc(inspect.getmodule(run_case)).splitlines()[0])
