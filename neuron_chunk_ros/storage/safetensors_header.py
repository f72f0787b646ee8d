# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Headers of safetensors files: checked reading, aligned writing.

A file is 8 bytes of header length (little endian), the header as one JSON object
{name: {dtype, shape, data_offsets: [begin, end]}}, then the data without holes; the header may
end in spaces, which is what aligns our data.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from neuron_chunk_ros.errors import NeuronChunkError
from neuron_chunk_ros.storage.layout import ALIGNMENT
from neuron_chunk_ros.storage.strict_json import parse_object, shown, whole

MAX_HEADER_BYTES = 100_000_000  # the format's own limit


# safetensors' names -> bytes per element
ITEM_BYTES = {
    'BOOL': 1, 'U8': 1, 'I8': 1, 'F8_E5M2': 1, 'F8_E4M3': 1, 'F8_E8M0': 1,
    'I16': 2, 'U16': 2, 'F16': 2, 'BF16': 2,
    'I32': 4, 'U32': 4, 'F32': 4, 'I64': 8, 'U64': 8, 'F64': 8, 'C64': 8,
}


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: dtype by safetensors' name, byte range from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.end - self.begin


def read_header(path: Path, error: type[NeuronChunkError]) -> dict[str, TensorEntry]:
    """Read and check a file's header: tensors by name, in the order of their data.

    Raises `error` with one line that names the file and the fault.
    """
    try:
        with open(path, 'rb', opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError('not a regular file')
            return _parse(file, status.st_size)
    except OSError as reason:
        raise error(f'{path}: {reason.strerror}') from reason
    except ValueError as reason:
        raise error(f'{path}: {reason}') from reason


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO in a model's place must not hang us


def _parse(file, size: int) -> dict[str, TensorEntry]:
    if size < 8:
        raise ValueError(f'truncated: {size} bytes are too few for a safetensors file')
    length = struct.unpack('<Q', file.read(8))[0]
    if length > MAX_HEADER_BYTES:
        raise ValueError(f'header length {length} is over the limit of {MAX_HEADER_BYTES}')
    if 8 + length > size:
        raise ValueError(f'truncated: a header of {length} bytes in a file of {size}')
    text = file.read(length)
    if not text.startswith(b'{'):
        raise ValueError('the header is not a JSON object')
    try:
        header = parse_object(text)
    except ValueError as reason:
        raise ValueError(f'bad header: {reason}') from reason
    metadata = header.pop('__metadata__', {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError('bad header: __metadata__ must map text to text')

    start = 8 + length
    entries = {name: _entry(name, value, start) for name, value in header.items()}
    ordered = sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end))
    position = start
    for name, entry in ordered:
        if entry.begin != position:
            fault = 'overlaps another' if entry.begin < position else 'leaves a hole before it'
            raise ValueError(f'bad header: tensor {shown(name)} {fault}')
        position = entry.end
    if position != size:
        fault = 'truncated' if position > size else 'data after the last tensor'
        raise ValueError(f'{fault}: the header describes {position} bytes, the file has {size}')
    return dict(ordered)


def _entry(name: str, value, start: int) -> TensorEntry:
    label = f'bad header: tensor {shown(name)}'
    if not name or not name.isprintable():
        raise ValueError(f'{label}: unprintable name')
    if not isinstance(value, dict) or set(value) != {'dtype', 'shape', 'data_offsets'}:
        raise ValueError(f'{label}: want exactly dtype, shape and data_offsets')
    dtype, shape, offsets = value['dtype'], value['shape'], value['data_offsets']
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f'{label}: unknown dtype {shown(dtype)}')
    if not isinstance(shape, list) or len(shape) > 16:
        raise ValueError(f'{label}: bad shape {shown(shape)}')
    nbytes = ITEM_BYTES[dtype]
    for size in shape:
        nbytes *= whole(size, f'{label}: a size')
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError(f'{label}: data_offsets must be two numbers')
    begin, end = (whole(offset, f'{label}: an offset') for offset in offsets)
    if end - begin != nbytes:
        raise ValueError(f'{label}: {end - begin} bytes of data, its shape needs {nbytes}')
    return TensorEntry(dtype, tuple(shape), start + begin, start + end)


def plan_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]],
                align_each: bool) -> tuple[bytes, dict[str, TensorEntry]]:
    """Lay out a file: (name, dtype, shape) in data order -> header bytes, tensors by name.

    The data starts on a multiple of ALIGNMENT. With align_each every tensor does, and the file
    ends on one: U8 tensors `__pad.N` fill the gaps.
    """
    placed: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    position = 0
    for name, dtype, shape in tensors:
        nbytes = ITEM_BYTES[dtype]
        for size in shape:
            nbytes *= size
        placed[name] = (dtype, tuple(shape), position, position + nbytes)
        position += nbytes
        gap = -position % ALIGNMENT if align_each else 0
        if gap:
            placed[f'__pad.{len(placed)}'] = ('U8', (gap,), position, position + gap)
            position += gap
    described = {'__metadata__': {'format': 'pt'}}
    for name, (dtype, shape, begin, end) in placed.items():
        described[name] = {'dtype': dtype, 'shape': list(shape), 'data_offsets': [begin, end]}
    text = json.dumps(described, separators=(',', ':')).encode()
    text += b' ' * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"{len(placed)} tensors need a header over the format's limit")
    start = 8 + len(text)
    entries = {name: TensorEntry(dtype, shape, start + begin, start + end)
               for name, (dtype, shape, begin, end) in placed.items()}
    return struct.pack('<Q', len(text)) + text, entries
