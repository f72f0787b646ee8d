# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Golden vectors computed again, by plain numpy integers and nothing but what the files say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from neuron_chunk_ros.compress.export.operations import CONSTANTS, Operation, _read_tensors, load


def check(folder: Path) -> list[str]:
    """Return a line for each operation that does not come out as the golden vectors say.

    Raises RecipeError for files that are missing or damaged.
    """
    operations, manifest = load(folder)
    tables = _read_tensors(folder / CONSTANTS, manifest['files'][CONSTANTS])
    wrong = []
    for one in operations:
        found = compute(one, tables)
        want = one.vectors['output'].astype(np.int64)
        if found.shape != want.shape or (found != want).any():
            count = int((found != want).sum()) if found.shape == want.shape else want.size
            wrong.append(f'{one.kind} {one.name}: {count} of {want.size} numbers differ')
    return wrong


def compute(one: Operation, tables: dict[str, np.ndarray]) -> np.ndarray:
    """Return an operation's output, int64, from its constants and inputs."""
    return globals()[f'_{one.kind}'](
        one.numbers, {key: value.astype(np.int64) for key, value in {
            **one.constants, **one.vectors}.items() if value.dtype != bool},
        {**tables, **{key: value for key, value in one.vectors.items() if value.dtype == bool}})


def _shifted(codes, by, shift: int):
    return (codes * by + (1 << shift >> 1)) >> shift


def _clamped(codes, bits: int):
    return codes.clip(-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if bits else codes


def _product(n: dict, t: dict, _):
    sums = t['input'] @ t['weight'].T + t.get('bias', 0)
    assert (sums == t['sums']).all()
    return _clamped(_shifted(sums, t['multiplier'], n['shift']), n['bits'])


def _convolution(n: dict, t: dict, _):
    weight = t['weight']
    assert n['groups'] == 1 and set(n['dilation']) == {1}
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
    return _clamped(_shifted(sums, t['multiplier'].reshape(by_output), n['shift']), n['bits'])


def _rescale(n: dict, t: dict, _):
    return _clamped(_shifted(t['input'], t['multiplier'], n['shift']), n['bits'])


def _add(n: dict, t: dict, _):
    return t['left'] + t['right']


def _multiply(n: dict, t: dict, _):
    return t['left'] * t['right']


def _table(n: dict, t: dict, _):
    return t['table'][t['input'] + (1 << (n['input_bits'] - 1))]


def _embedding(n: dict, t: dict, _):
    return t['weight'][t['input']]


def _norm(n: dict, t: dict, _):
    codes, shift = t['input'], n['input_shift']
    whole = codes * codes.shape[-1] - (codes.sum(-1, keepdims=True) if n['centred'] else 0)
    centred = _clamped((whole + (1 << shift >> 1)) >> shift, n['centred_bits'])
    squares = ((centred ** 2).sum(-1, keepdims=True) + n['floor']) << 8
    root = np.array([math.isqrt(int(v)) for v in squares.ravel()]).reshape(squares.shape)
    product = (centred * t['multiplier']) >> (n['shift'] - 8)
    return _clamped((product + (root << 7)) // (root << 8) + t.get('bias', 0), n['bits'])


def _attention(n: dict, t: dict, more: dict):
    scores = t['query'] @ t['key'].swapaxes(-1, -2)
    assert (scores == t['scores']).all()
    visible = np.broadcast_to(more['visible'], scores.shape)
    scaled = np.where(visible, _shifted(scores, t['score_multiplier'], n['score_shift']),
                      -(1 << 40))
    below = (scaled.max(-1, keepdims=True) - scaled).clip(
        max=(n['reach'] << n['exponent_bits']) - 1)
    coarse, fine = (more[f'exp/{part}'].astype(np.int64) for part in ('coarse', 'fine'))
    powers = (coarse[below >> n['fine_bits']] * fine[below & ((1 << n['fine_bits']) - 1)]
              ) >> n['table_bits']
    powers = np.where(visible, powers, 0)
    total = powers.sum(-1, keepdims=True)
    weights = ((powers << n['probability_bits']) + (total >> 1)) // total
    assert (weights == t['weights']).all()
    return _clamped(_shifted(weights @ t['value'], t['multiplier'], n['shift']), n['bits'])
