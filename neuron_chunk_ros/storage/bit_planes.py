# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Small whole numbers in as many bits as they need, in blocks of 32 output channels.

Numbers of `bits` bits lie as planes of 4, 2 and 1 bits, the highest bits first (six bits: a plane
of 4, a plane of 2). In a block, byte k of a plane of w bits has those of the channels k, k + 4 w,
k + 8 w ..., the first in its lowest bits. So a processor widens whole vectors, whatever the bits.
"""

from __future__ import annotations

import numpy as np

BLOCK = 32
_PLANES = {bits: tuple(width for width in (4, 2, 1) if bits & width) for bits in range(1, 8)}
_PLANES[8] = ()  # whole bytes


def nbytes(columns: int, bits: int) -> int:
    """Return the bytes that so many numbers take: whole blocks."""
    return -(-columns // BLOCK) * BLOCK // 8 * bits


def pack(integers: np.ndarray, bits: int) -> np.ndarray:
    """Lay integers out, each plus 2**(bits - 1) but for eight bits, which stay as they are.

    :param integers: int8 [rows, columns] of -2**(bits - 1) to 2**(bits - 1) - 1.
    :return: uint8 [rows, nbytes].
    """
    rows, columns = integers.shape
    blocks = -(-columns // BLOCK)
    whole = np.zeros((rows, blocks * BLOCK), np.int8)
    whole[:, :columns] = integers
    if bits == 8:
        return whole.view(np.uint8)
    codes = (whole + np.int8(1 << (bits - 1))).view(np.uint8).reshape(rows, blocks, BLOCK)
    planes, left = [], bits
    for width in _PLANES[bits]:
        left -= width
        part = (codes >> left) & ((1 << width) - 1)
        fields = part.reshape(rows, blocks, 8 // width, 4 * width)
        shifts = (width * np.arange(8 // width, dtype=np.uint8))[:, None]
        planes.append(np.bitwise_or.reduce(fields << shifts, axis=2))
    return np.concatenate(planes, axis=2).reshape(rows, nbytes(columns, bits))


def unpack(packed: np.ndarray, columns: int, bits: int) -> np.ndarray:
    """Return the integers, int8 [rows, columns], of what `pack` made."""
    rows, blocks = len(packed), -(-columns // BLOCK)
    if bits == 8:
        return np.ascontiguousarray(packed).view(np.int8)[:, :columns]
    bytes_of = packed.reshape(rows, blocks, 4 * bits)
    codes, at = np.zeros((rows, blocks, BLOCK), np.uint8), 0
    for width in _PLANES[bits]:
        plane = bytes_of[:, :, at:at + 4 * width]
        at += 4 * width
        shifts = (width * np.arange(8 // width, dtype=np.uint8))[:, None]
        fields = (plane[:, :, None, :] >> shifts) & ((1 << width) - 1)
        codes = (codes << width) | fields.reshape(rows, blocks, BLOCK)
    integers = codes.view(np.int8) - np.int8(1 << (bits - 1))
    return integers.reshape(rows, blocks * BLOCK)[:, :columns]
