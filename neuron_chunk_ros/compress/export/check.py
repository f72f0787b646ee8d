# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Golden vectors computed again, by plain numpy integers and nothing but what the files say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from neuron_chunk_ros.compress.export.operations import Operation, load
from neuron_chunk_ros.errors import RecipeError


def check(folder: Path) -> tuple[int, list[str]]:
    """Return how many operations there are, and a line for each that comes out otherwise.

    Raises RecipeError for files that are missing or damaged.
    """
    operations, _ = load(folder)
    wrong = []
    for one in operations:
        for name, found in compute(one).items():
            want = one.vectors[name].astype(np.int64)
            differ = int((found != want).sum()) if found.shape == want.shape else want.size
            if differ:
                wrong.append(f'{one.kind} {one.name}: {differ} of {want.size} numbers of its '
                             f'{name} differ')
                break
    return len(operations), wrong


def compute(one: Operation) -> dict[str, np.ndarray]:
    """Return an operation's output, and what it had on the way, int64, by their names.

    From its constants and inputs alone. Raises RecipeError for a convolution of groups, or a
    dilated one.
    """
    given = {**one.constants, **one.vectors}
    found = globals()[f'_{one.kind}'](one.numbers, {
        key: value if value.dtype == bool else value.astype(np.int64)
        for key, value in given.items()})
    return found if isinstance(found, dict) else {'output': found}


def _shifted(codes, by, shift: int):
    return (codes * by + (1 << shift >> 1)) >> shift


def _clamped(codes, bits: int):
    return codes.clip(-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if bits else codes


def _product(n: dict, t: dict):
    sums = t['input'] @ t['weight'].T + t.get('bias', 0)
    return {'sums': sums, 'output': _clamped(_shifted(sums, t['multiplier'], n['shift']),
                                             n['bits'])}


def _convolution(n: dict, t: dict):
    weight = t['weight']
    if n['groups'] != 1 or set(n['dilation']) != {1}:
        raise RecipeError('a convolution of groups, or a dilated one, is not computed again by '
                          'this release')
    image = np.pad(t['input'], [(0, 0), (0, 0), *map(tuple, n['padding'])])
    inside = tuple(range(2, image.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(image, weight.shape[2:], axis=inside)
    windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in n['stride']))]
    # [images, channels, places ..., window ...] with [outputs, channels, window ...]
    summed = (1, *(axis + len(inside) for axis in inside))
    sums = np.tensordot(windows, weight, (summed, tuple(range(1, weight.ndim))))
    sums = np.moveaxis(sums, -1, 1)
    by_output = (-1, *[1] * len(inside))
    if 'bias' in t:
        sums = sums + t['bias'].reshape(by_output)
    return {'sums': sums, 'output': _clamped(
        _shifted(sums, t['multiplier'].reshape(by_output), n['shift']), n['bits'])}


def _rescale(n: dict, t: dict):
    return _clamped(_shifted(t['input'], t['multiplier'], n['shift']), n['bits'])


def _add(n: dict, t: dict):
    return t['left'] + t['right']


def _multiply(n: dict, t: dict):
    return t['left'] * t['right']


def _table(n: dict, t: dict):
    return t['table'][t['input'] + (1 << (n['input_bits'] - 1))]


def _embedding(n: dict, t: dict):
    return t['weight'][t['input']]


def _norm(n: dict, t: dict):
    codes, shift = t['input'], n['input_shift']
    whole = codes * codes.shape[-1] - (codes.sum(-1, keepdims=True) if n['centred'] else 0)
    centred = _clamped((whole + (1 << shift >> 1)) >> shift, n['centred_bits'])
    squares = ((centred ** 2).sum(-1, keepdims=True) + n['floor']) << 8
    root = np.array([math.isqrt(int(v)) for v in squares.ravel()]).reshape(squares.shape)
    product = (centred * t['multiplier']) >> (n['shift'] - 8)
    return _clamped((product + (root << 7)) // (root << 8) + t.get('bias', 0), n['bits'])


def _attention(n: dict, t: dict):
    scores = t['query'] @ t['key'].swapaxes(-1, -2)
    visible = np.broadcast_to(t['visible'], scores.shape)
    scaled = np.where(visible, _shifted(scores, t['score_multiplier'], n['score_shift']),
                      -(1 << 40))
    below = (scaled.max(-1, keepdims=True) - scaled).clip(
        max=(n['reach'] << n['exponent_bits']) - 1)
    powers = (t['coarse'][below >> n['fine_bits']] * t['fine'][below & ((1 << n['fine_bits']) - 1)]
              ) >> n['table_bits']
    powers = np.where(visible, powers, 0)
    total = powers.sum(-1, keepdims=True)
    weights = ((powers << n['probability_bits']) + (total >> 1)) // total
    return {'scores': scores, 'weights': weights, 'output': _clamped(
        _shifted(weights @ t['value'], t['multiplier'], n['shift']), n['bits'])}
