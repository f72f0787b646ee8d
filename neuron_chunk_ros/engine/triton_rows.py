# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Packed rows widened on a GPU in one pass: bits from their planes, both parts, times the scale.

What torch's own operations would do in some twenty passes over memory (rows._unpacked, which says
what is right). Imported only where there is Triton; TRITON_INTERPRET=1 runs it on a CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from neuron_chunk_ros.storage.packed_rows import PackedFormat, Refinement

_COLUMNS = 1024  # of a row, by one program


@triton.jit
def _integers(segment, columns, bits: tl.constexpr):
    """Return integers as storage.bit_planes has them, int32; segment: of one row, uint8."""
    block = segment + columns // 32 * (4 * bits)
    channel = columns % 32
    if bits == 8:
        codes = tl.load(block + channel).to(tl.int32)
        return codes - 256 * (codes > 127).to(tl.int32)
    codes = columns * 0
    at = 0
    for width in tl.static_range(4, 0, -1):  # planes of 4, 2 and 1 bits, the highest first
        if width != 3 and bits & width:
            byte = tl.load(block + at + channel % (4 * width)).to(tl.int32)
            field = (byte >> (channel // (4 * width) * width)) & ((1 << width) - 1)
            codes = codes * (1 << width) + field
            at += 4 * width
    return codes - (1 << (bits - 1))


@triton.jit
def _widen(out, out_stride, packed, stride, places, finer, finer_stride, columns, value_bytes,
           bits: tl.constexpr, finer_bits: tl.constexpr, group: tl.constexpr,
           picked: tl.constexpr, width: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * width + tl.arange(0, width)
    # Behind the last column: the same as the last one, and not stored.
    column = tl.minimum(at, columns - 1)
    place = row
    if picked:
        place = tl.load(places + row)
    segment = packed + place * stride
    values = _integers(segment, column, bits)
    scale = segment + value_bytes + column // group * 2
    # By bytes: a segment may begin anywhere.
    high = tl.load(scale + 1).to(tl.uint32) << 24
    low = tl.load(scale).to(tl.uint32) << 16
    unit = (high | low).to(tl.float32, bitcast=True)
    if finer_bits:
        values = values * (1 << finer_bits) + _integers(finer + row * finer_stride, column,
                                                        finer_bits)
        unit = unit * (1.0 / (1 << finer_bits))
    tl.store(out + row * out_stride + at, (values.to(tl.float32) * unit).to(out.dtype.element_ty),
             mask=at < columns)


def widen_segment(packed: torch.Tensor, made: PackedFormat, out: torch.Tensor,
                  places: torch.Tensor | None = None, finer: torch.Tensor | None = None,
                  refinement: Refinement | None = None) -> None:
    """Write what a segment's rows stand for.

    :param packed: uint8 [all rows, segment bytes], its last stride 1.
    :param out: [rows, columns], float32, bfloat16 or float16, its last stride 1.
    :param places: int64 [rows], which rows are wanted; None: the first ones.
    :param finer: uint8 [rows, segment bytes], their refinement.
    """
    rows, columns = out.shape
    if not rows:
        return
    width = min(_COLUMNS, triton.next_power_of_2(columns))
    _widen[rows, triton.cdiv(columns, width)](
        out, out.stride(0), packed, packed.stride(0), places if places is not None else packed,
        finer if finer is not None else packed, finer.stride(0) if finer is not None else 0,
        columns, made.value_bytes(columns), made.bits,
        refinement.bits if finer is not None else 0, made.group, places is not None, width)
