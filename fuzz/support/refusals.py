# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a refusal has to be: an error made on purpose, in one line that names what is wrong."""

from support.watched import Finding

from neuron_chunk_ros.errors import NeuronChunkError

MOST_LETTERS = 2000


def check_line(line, named=()):
    """Raise Finding where a line is no line, or names none of the things in `named`."""
    if not line.strip():
        raise Finding('an error that says nothing')
    if len(line.splitlines()) != 1 or not line.isprintable():
        raise Finding(f'a message of several lines, or not printable: {line[:600]!r}')
    if len(line) > MOST_LETTERS:
        raise Finding(f'a message of {len(line)} letters: {line[:600]!r}...')
    if named and not any(str(name) in line for name in named):
        raise Finding(f'a message that names none of {[str(name) for name in named]}: {line!r}')


def refused_or(call, named=(), errors=NeuronChunkError):
    """Return what call() returns; None where it refuses as it should. Raises what else it does.

    :param named: things of which the message has to name one.
    """
    try:
        return call()
    except errors as error:
        check_line(str(error), named)
        return None
