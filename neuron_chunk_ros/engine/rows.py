# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From the bytes of stored rows to the operand of a product.

How a row is stored, what is computed in and what the KV cache holds are three things: this is
where the first becomes the second.
"""

from __future__ import annotations

import functools
import time

import torch

from neuron_chunk_ros.storage.bundle import Group
from neuron_chunk_ros.storage.row_format import ROW_FORMATS

# by what safetensors calls them
TORCH_TYPES = {'BF16': torch.bfloat16, 'F16': torch.float16, 'F32': torch.float32,
               'I64': torch.int64, 'I32': torch.int32, 'U8': torch.uint8, 'BOOL': torch.bool}
# by the row format's name
STORED = {name: TORCH_TYPES[made.tag] for name, made in ROW_FORMATS.items()}


def compute_dtype(stored: str, device: str) -> torch.dtype:
    """Return the dtype to compute in: as stored on a GPU; on a CPU what it is fast in."""
    dtype = STORED[stored]
    if torch.device(device).type != 'cpu' or dtype == torch.float32:
        return dtype
    return torch.bfloat16 if bfloat16_is_fast() else torch.float32


def held_dtype(stored: str, compute: torch.dtype) -> torch.dtype:
    """Return the dtype in which rows are kept in memory: the narrower of the two."""
    return STORED[stored] if STORED[stored].itemsize < compute.itemsize else compute


@functools.cache
def bfloat16_is_fast() -> bool:
    """Whether this CPU multiplies bfloat16 about as fast as float32.

    Without AVX-512 or Arm's BF16 instructions (a Jetson Orin has neither) torch's bfloat16
    product takes 50 to 200 times as long; float16's takes that long on most.
    """
    vectors = torch.backends.cpu.get_cpu_capability()
    if vectors.startswith('AVX'):  # which says it for x86; elsewhere it is tried, once
        return vectors.startswith('AVX512')
    return _seconds(torch.bfloat16) < 4 * _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """Return what a product takes that is long enough not to be a matter of waking threads."""
    left, right = torch.ones(64, 512, dtype=dtype), torch.ones(512, 1024, dtype=dtype)
    tries = []
    for _ in range(4):  # the first one generates the kernel
        started = time.perf_counter()
        left @ right
        tries.append(time.perf_counter() - started)
    return min(tries)


def stored(raw: torch.Tensor, group: Group, rows: int) -> torch.Tensor:
    """Return the first rows in a buffer's bytes, uint8, as [rows, columns] of the stored type."""
    return raw[:rows * group.row_bytes].view(STORED[group.dtype]).view(rows, group.columns)


def operand(weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Return rows in the type and on the device of the activation they are multiplied by."""
    return weights.to(inputs.device, inputs.dtype)
