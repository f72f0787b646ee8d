# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""JSON from a file nobody vouches for: one object, no duplicates, no NaN, never a surprise."""

from __future__ import annotations

import json


def parse_object(data: bytes) -> dict:
    """Parse one JSON object. Raises ValueError saying what is wrong, and nothing else."""
    try:
        value = json.loads(data.decode('utf-8'), object_pairs_hook=_unique,
                           parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError('nested too deeply') from error
    except UnicodeDecodeError as error:
        raise ValueError(f'not UTF-8 at byte {error.start}') from error
    if not isinstance(value, dict):
        raise ValueError('not a JSON object')
    return value


def want_keys(value, keys: set[str], label: str) -> None:
    """Want an object with exactly these keys. Raises ValueError otherwise."""
    if not isinstance(value, dict):
        raise ValueError(f'{label} must be an object')
    for missing in sorted(keys - value.keys()):
        raise ValueError(f'{label}: {missing!r} is missing')
    for extra in sorted(value.keys() - keys):
        raise ValueError(f'{label}: {shown(extra)} is not known')


def whole(value, name: str, least: int = 0) -> int:
    """Return value if it is a whole number in [least, 2^53]. Raises ValueError otherwise."""
    if type(value) is not int or not least <= value <= 1 << 53:
        raise ValueError(f'{name} is {shown(value)}, want a whole number from {least}')
    return value


def shown(value) -> str:
    """Show an untrusted value in one short printable line."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + '...'


def printable(text: str, most: int = 600) -> str:
    """Return a text that holds what strangers wrote on one line, control codes as escapes.

    :param most: letters; the end of a longer one is left out.
    """
    text = ''.join(letter if letter.isprintable() else ascii(letter)[1:-1]
                   for letter in ' '.join(text.split())[:most])
    return text if len(text) < most else f'{text[:most]}...'


def _unique(pairs: list) -> dict:
    found: dict = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f'the key {shown(key)} appears twice')
        found[key] = value
    return found


def _refuse_constant(text: str):
    raise ValueError(f'{text} is not JSON')
