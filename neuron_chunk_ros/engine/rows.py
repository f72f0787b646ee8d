# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From the bytes of stored rows to the operand of a product.

How a row is stored, what is computed in and what the KV cache holds are three things: this is
where the first becomes the second.
"""

from __future__ import annotations

import functools
import time

import numpy as np
import torch

from neuron_chunk_ros import _native
from neuron_chunk_ros.storage.bundle import Group
from neuron_chunk_ros.storage.packed_rows import BLOCK, PackedFormat
from neuron_chunk_ros.storage.row_format import ROW_FORMATS

# by what safetensors calls them
TORCH_TYPES = {'BF16': torch.bfloat16, 'F16': torch.float16, 'F32': torch.float32,
               'I64': torch.int64, 'I32': torch.int32, 'U8': torch.uint8, 'BOOL': torch.bool}
# by the row format's name
_UNPACKED = {torch.float32: 'float32', torch.bfloat16: 'bfloat16'}
STORED = {name: TORCH_TYPES[made.tag] for name, made in ROW_FORMATS.items()}


def compute_dtype(stored: str, device: str) -> torch.dtype:
    """Return the dtype to compute in: as stored on a GPU; on a CPU what it is fast in."""
    dtype = STORED[stored]
    if torch.device(device).type != 'cpu' or dtype == torch.float32:
        return dtype
    return torch.bfloat16 if bfloat16_is_fast() else torch.float32


def held_as(group: Group, compute: torch.dtype) -> tuple[torch.dtype, int]:
    """Return the dtype and the number of elements of a row that is kept in memory."""
    if group.format.packed:
        return torch.uint8, group.row_bytes
    return held_dtype(group.dtype, compute), group.columns


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
    """Return the first rows in a buffer's bytes, uint8, as they are stored.

    [rows, columns] of the stored type, or uint8 [rows, row bytes].
    """
    if group.format.packed:
        return raw[:rows * group.row_bytes].view(rows, group.row_bytes)
    return raw[:rows * group.row_bytes].view(STORED[group.dtype]).view(rows, group.columns)


def widen(weights: torch.Tensor, group: Group, out: torch.Tensor) -> None:
    """Write what stored rows stand for to `out`, [rows, columns] of another type or device.

    Rows that are a refinement: see widen_split.
    """
    if not group.format.packed:
        out.copy_(weights)
        return
    made, left, at = group.format, 0, 0
    for width in group.widths:
        target = out[:, left:left + width]
        if out.device.type == 'cpu' and out.dtype in _UNPACKED:
            _native.unpack_rows(weights.data_ptr() + at, weights.stride(0), len(weights), width,
                                made.bits, made.group, target.data_ptr(), _UNPACKED[out.dtype],
                                out.stride(0), torch.get_num_threads())
        elif (fused := _fused(out.device)) and weights.device == out.device:
            fused.widen_segment(weights[:, at:at + made.segment_bytes(width)], made, target)
        else:
            target.copy_(_unpacked(weights[:, at:at + made.segment_bytes(width)], made, width))
        left, at = left + width, at + made.segment_bytes(width)


def widen_split(base: torch.Tensor, places: np.ndarray | None, finer: torch.Tensor | None,
                group: Group, out: torch.Tensor) -> None:
    """Write what rows in two parts stand for to `out`, [rows, columns].

    :param base: uint8 [all rows, row bytes of the base], on `out`'s device.
    :param places: int64 [rows], which rows they are, None for all.
    :param finer: the same rows' refinement, uint8 [rows, row bytes]; None: the base alone.
    """
    split, left, at, behind = group.split, 0, 0, 0
    fused = _fused(out.device)
    if fused is not None:  # once for all segments
        picked = None if places is None else torch.from_numpy(places).to(out.device)
        finer = None if finer is None else finer.to(out.device)
    for width in group.widths:
        target = out[:, left:left + width]
        size, more = split.base.segment_bytes(width), split.refinement.segment_bytes(width)
        if out.device.type == 'cpu' and out.dtype in _UNPACKED:
            _native.unpack_rows(
                base.data_ptr() + at, base.stride(0), len(out), width, split.base.bits,
                split.base.group, target.data_ptr(), _UNPACKED[out.dtype], out.stride(0),
                torch.get_num_threads(), '', places,
                *(() if finer is None else (finer.data_ptr() + behind, finer.stride(0),
                                            split.refinement.bits)))
        elif fused is not None:
            low = None if finer is None else finer[:, behind:behind + more]
            fused.widen_segment(base[:, at:at + size], split.base, target, picked, low,
                                split.refinement)
        else:
            some = base if places is None else base.index_select(
                0, torch.from_numpy(places).to(base.device))
            low = None if finer is None else finer[:, behind:behind + more].to(out.device)
            target.copy_(_unpacked(some[:, at:at + size], split.base, width, low,
                                   split.refinement.bits))
        left, at, behind = left + width, at + size, behind + more


@functools.cache
def _fused(device: torch.device):
    """Return the module that widens rows in one pass on this device; None where there is none."""
    if device.type != 'cuda':
        return None
    try:
        from neuron_chunk_ros.engine import triton_rows
    except ImportError:  # no Triton came with this torch
        return None
    return triton_rows


def _unpacked(packed: torch.Tensor, made: PackedFormat, columns: int,
              finer: torch.Tensor | None = None, finer_bits: int = 0) -> torch.Tensor:
    """Return a segment's values, float32, by torch's own operations (any device)."""
    size = made.value_bytes(columns)
    integers = _integers(packed[:, :size], made.bits)
    scales = packed[:, size:].contiguous().view(torch.bfloat16).float()
    if finer is not None:
        integers = integers * (1 << finer_bits) + _integers(finer, finer_bits)
        scales = scales / (1 << finer_bits)
    return integers[:, :columns] * scales.repeat_interleave(made.group, dim=1)[:, :columns]


def _integers(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Return integers as storage.bit_planes has them, float32 [rows, whole blocks]."""
    if bits == 8:
        return packed.contiguous().view(torch.int8).float()
    rows, at, codes = len(packed), 0, 0
    blocks = packed.reshape(rows, packed.shape[1] // (4 * bits), 4 * bits)
    for width in (4, 2, 1):
        if bits & width:
            plane = blocks[:, :, at:at + 4 * width]
            fields = torch.stack([plane >> shift & (1 << width) - 1
                                  for shift in range(0, 8, width)], dim=2)
            codes = codes * (1 << width) + fields.reshape(rows, -1, BLOCK).float()
            at += 4 * width
    return (codes - (1 << bits - 1)).reshape(rows, -1)
