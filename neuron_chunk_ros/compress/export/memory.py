# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Memory images that $readmemh loads, and C headers: the same integers as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuron_chunk_ros.compress.export.operations import Operation, file_name

_C_TYPES = {1: 'int8_t', 2: 'int16_t', 4: 'int32_t', 8: 'int64_t'}


def image(values: np.ndarray, word_bits: int, item_bits: int | None = None) -> str:
    """Return integers as lines of hexadecimal words.

    Each of the last axis' rows begins a word; the first number lies in a word's lowest bits, and
    what is left of a row's last word is zero. Negative numbers are two's complement.

    :param word_bits: of a line, a multiple of `item_bits`.
    :param item_bits: of a number; None: as its type.
    """
    item_bits = item_bits or 8 * values.itemsize
    if word_bits % item_bits:
        raise ValueError(f'words of {word_bits} bits hold no whole number of {item_bits} bits')
    lanes = word_bits // item_bits
    rows = values.reshape(-1, values.shape[-1] if values.ndim else 1).astype(np.int64)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % lanes)))
    items = (rows & ((1 << item_bits) - 1)).astype(np.uint64).reshape(-1, lanes)
    digits = item_bits // 4
    return ''.join(''.join(f'{int(item):0{digits}x}' for item in word[::-1]) + '\n'
                   for word in items)


def parse(text: str, word_bits: int, item_bits: int) -> np.ndarray:
    """Return the numbers of an image, int64, padding included: the inverse of `image`."""
    words = [int(line, 16) for line in text.split('\n') if line and not line.startswith('//')]
    mask, top = (1 << item_bits) - 1, 1 << (item_bits - 1)
    return np.array([((word >> at & mask) ^ top) - top for word in words
                     for at in range(0, word_bits, item_bits)], np.int64)


def write_images(folder: Path, operations: list[Operation], word_bits: int) -> None:
    """Write OPERATION.TENSOR.mem for every constant; a comment says what is in it."""
    folder.mkdir()
    for one in operations:
        for key, values in one.constants.items():
            bits = 8 * values.itemsize
            word = max(word_bits, bits)
            shape = ' x '.join(map(str, values.shape)) or '1'
            (folder / f'{file_name(one.name)}.{key}.mem').write_text(
                f'// {one.kind} {one.name}: {key}, {shape} of {bits} bits, words of {word}\n'
                + image(values, word, bits))


def write_headers(folder: Path, operations: list[Operation]) -> None:
    """Write OPERATION.h for everything with constants, and model.h that includes them all."""
    folder.mkdir()
    names = []
    for one in operations:
        if not one.constants:
            continue
        name = file_name(one.name)
        names.append(name)
        lines = [f'/* {one.kind} {one.name} */', '#pragma once', '#include <stdint.h>', '']
        lines += [f'#define {name.upper()}_{key.upper()} {value}'
                  for key, value in one.numbers.items() if isinstance(value, (int, float))]
        for key, values in one.constants.items():
            kind = _C_TYPES[values.itemsize]
            sizes = ''.join(f'[{size}]' for size in values.shape) or '[1]'
            lines.append(f'static const {kind} {name}_{key}{sizes} = {_braces(values)};')
        (folder / f'{name}.h').write_text('\n'.join(lines) + '\n')
    (folder / 'model.h').write_text(
        '#pragma once\n' + ''.join(f'#include "{name}.h"\n' for name in names))


def _braces(values: np.ndarray) -> str:
    if values.ndim > 1:
        return '{' + ',\n'.join(map(_braces, values)) + '}'
    return '{' + ','.join(map(str, values.reshape(-1).tolist())) + '}'
