# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's calibration: its shape in bundle.json, and the per-neuron arrays beside it.

In bundle.json it is the object `check` describes. The arrays lie in a safetensors file that the
object names: for each group and kind `GROUP.KIND.count` int32 [rows], how many samples had the
row among their most important half, and `GROUP.KIND.importance` float32 [rows], the mean of its
importance; both in the order of the rows on flash.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from neuron_chunk_ros.storage.safetensors_header import TensorEntry, plan_header
from neuron_chunk_ros.storage.strict_json import shown, whole

KINDS = ('visual', 'text')
ARRAYS = {'count': 'I32', 'importance': 'F32'}
FILE_PATTERN = re.compile(r'calibration-[0-9a-f]{16}\.safetensors', re.ASCII)
_KEYS = {'samples', 'levels', 'groups', 'neurons', 'about'}
_NEURON_KEYS = {'file', 'bytes', 'sha256'}
_TABLE_KEYS = {'sparsity', 'sensitivity', 'variation'}
_MOST_LEVELS = 1000


def check(calibration) -> None:
    """Refuse a calibration that is not an object of this shape. Raises ValueError, one line.

    samples: how many were used. levels: ascending parameter-weighted sparsities from 0, below 1.
    groups: group name -> kind -> {sparsity: one number in [0, 1) for each level, never falling,
    0 at level 0; sensitivity and variation: numbers from 0}. neurons: {file, bytes, sha256}.
    about: an object for readers, not read back.
    """
    _want(calibration, _KEYS, 'calibration')
    whole(calibration['samples'], 'calibration: samples', 1)
    if not isinstance(calibration['about'], dict):
        raise ValueError('calibration: about must be an object')
    levels = _numbers(calibration['levels'], 'calibration: levels')
    if levels[0] != 0 or levels[-1] >= 1 or len(levels) < 2 or any(
            a >= b for a, b in zip(levels, levels[1:], strict=False)):
        raise ValueError('calibration: levels must ascend from 0 and stay below 1')
    groups = calibration['groups']
    if not isinstance(groups, dict) or not groups:
        raise ValueError('calibration: groups must be an object with at least one')
    for name, kinds in groups.items():
        _want(kinds, set(KINDS), f'calibration of {shown(name)}')
        for kind, table in kinds.items():
            label = f'calibration of {shown(name)}, {kind}'
            _want(table, _TABLE_KEYS, label)
            for key in ('sensitivity', 'variation'):
                _numbers([table[key]], f'{label}: {key}')
            sparsity = _numbers(table['sparsity'], f'{label}: sparsity')
            if len(sparsity) != len(levels):
                raise ValueError(f'{label}: {len(sparsity)} sparsities for {len(levels)} levels')
            if sparsity[0] != 0 or sparsity[-1] >= 1 or any(
                    a > b for a, b in zip(sparsity, sparsity[1:], strict=False)):
                raise ValueError(f'{label}: sparsity must start at 0, never fall, stay below 1')
    neurons = calibration['neurons']
    _want(neurons, _NEURON_KEYS, 'calibration: neurons')
    if not isinstance(neurons['file'], str) or not FILE_PATTERN.fullmatch(neurons['file']):
        raise ValueError(f'calibration: neurons: file {shown(neurons["file"])} is not named '
                         f'calibration-DIGEST.safetensors')


def check_groups(calibration: dict, rows: Mapping[str, int],
                 entries: Mapping[str, TensorEntry]) -> None:
    """Hold a checked calibration against a bundle's groups and its own file's header.

    :param rows: rows of each group of the bundle.
    :raises ValueError: for a group without calibration, or an array that is missing or odd.
    """
    for odd in sorted(calibration['groups'].keys() ^ rows.keys()):
        raise ValueError(f'calibration and bundle differ in group {shown(odd)}')
    wanted = {tensor_name(group, kind, array): (tag, (rows[group],))
              for group in rows for kind in KINDS for array, tag in ARRAYS.items()}
    for odd in sorted(wanted.keys() ^ entries.keys()):
        raise ValueError(f'calibration: tensor {shown(odd)} is missing or not wanted in '
                         f'{calibration["neurons"]["file"]}')
    for name, what in wanted.items():
        if (entries[name].dtype, entries[name].shape) != what:
            raise ValueError(f'calibration: tensor {shown(name)} is {entries[name].dtype} '
                             f'{list(entries[name].shape)}, want {what[0]} {list(what[1])}')


def tensor_name(group: str, kind: str, array: str) -> str:
    """Return the name of a group's array ('count' or 'importance') in the file."""
    return f'{group}.{kind}.{array}'


def complete(calibration: dict, arrays: Mapping[str, np.ndarray]) -> tuple[dict, bytes]:
    """Return the calibration with `neurons` filled in, checked, and that file's content.

    The file is named after its content, so that a new one never takes an old one's place while
    bundle.json still names the old. Raises ValueError for a calibration of another shape.
    """
    data = pack(arrays)
    digest = hashlib.sha256(data).hexdigest()
    done = {**calibration, 'neurons': {'file': f'calibration-{digest[:16]}.safetensors',
                                       'bytes': len(data), 'sha256': digest}}
    check(done)
    return done, data


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the safetensors file of int32 and float32 arrays, in the mapping's order."""
    tags = {np.dtype(np.int32): 'I32', np.dtype(np.float32): 'F32'}
    header, _ = plan_header(((name, tags[array.dtype], array.shape)
                             for name, array in arrays.items()), align_each=False)
    return b''.join([header, *(np.ascontiguousarray(a).tobytes() for a in arrays.values())])


def unpack(path: Path, entries: Mapping[str, TensorEntry]) -> dict[str, np.ndarray]:
    """Read the I32 and F32 tensors of a file whose header was checked. Raises OSError."""
    types = {'I32': np.int32, 'F32': np.float32}
    return {name: np.fromfile(path, types[entry.dtype], math.prod(entry.shape),
                              offset=entry.begin).reshape(entry.shape)
            for name, entry in entries.items()}


def _want(value, keys: set[str], label: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f'{label} must be an object')
    for odd in sorted(keys ^ value.keys()):
        fault = 'is missing' if odd in keys else 'is not known'
        raise ValueError(f'{label}: {shown(odd)} {fault}')


def _numbers(value, label: str) -> list[float]:
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_LEVELS:
        raise ValueError(f'{label} must be a list of numbers')
    for number in value:
        if type(number) not in (int, float) or not 0 <= number <= 1e300:
            raise ValueError(f'{label}: {shown(number)} is not a number from 0')
    return value
