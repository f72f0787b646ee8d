# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Element types as safetensors names them, and rounding between the three weight types.

numpy has no bfloat16: its bits travel as uint16.
"""

from __future__ import annotations

import numpy as np

# safetensors' names -> bytes per element
ITEM_BYTES = {
    'BOOL': 1, 'U8': 1, 'I8': 1, 'F8_E5M2': 1, 'F8_E4M3': 1, 'F8_E8M0': 1,
    'I16': 2, 'U16': 2, 'F16': 2, 'BF16': 2,
    'I32': 4, 'U32': 4, 'F32': 4, 'I64': 8, 'U64': 8, 'F64': 8, 'C64': 8,
}

# the types a bundle's groups may have -> safetensors' name
WEIGHT_TYPES = {'bfloat16': 'BF16', 'float16': 'F16', 'float32': 'F32'}
WEIGHT_NAMES = {tag: name for name, tag in WEIGHT_TYPES.items()}

_STORED_AS = {'bfloat16': ('uint16',), 'float16': ('float16', 'uint16'),
              'float32': ('float32', 'uint32')}


def storage_dtype(dtype: str) -> np.dtype:
    """Return the numpy type that carries a weight type's bits: uint16 for bfloat16."""
    return np.dtype(_STORED_AS[dtype][0])


def carries(array: np.ndarray, dtype: str) -> bool:
    """Tell whether an array's numpy type may carry the bits of this weight type."""
    return array.dtype in [np.dtype(name) for name in _STORED_AS[dtype]]


def from_bits(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Read storage values of a weight type as float32, exactly."""
    if dtype == 'bfloat16':
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return raw.view(storage_dtype(dtype)).astype(np.float32)


def to_bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round float32 values to a weight type's storage values (nearest, ties to even).

    Raises OverflowError where a finite value would become infinite.
    """
    values = np.ascontiguousarray(values, np.float32)
    if dtype == 'float32':
        return values
    if dtype == 'float16':
        with np.errstate(over='ignore'):
            narrow = values.astype(np.float16)
        overflow = np.isinf(narrow) & ~np.isinf(values)
    else:
        bits = values.view(np.uint32)
        rounded = bits + (((bits >> 16) & 1) + 0x7FFF)  # wraps only for NaN, restored below
        narrow = (rounded >> 16).astype(np.uint16)
        nan = np.isnan(values)
        narrow[nan] = ((bits[nan] >> 16) | 0x40).astype(np.uint16)
        overflow = ((narrow & 0x7FFF) == 0x7F80) & ~np.isinf(values)
    if overflow.any():
        raise OverflowError(f'a value does not fit {dtype}')
    return narrow
