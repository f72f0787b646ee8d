# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Row orders as a bundle keeps them: named in bundle.json, the numbers in a safetensors file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.storage.calibration import unpack
from neuron_chunk_ros.storage.layout import Group, Member, RowOrder
from neuron_chunk_ros.storage.manifest import sized_file, word
from neuron_chunk_ros.storage.safetensors_header import read_header
from neuron_chunk_ros.storage.strict_json import shown, want_keys


def read_orders(folder: Path, where, described: Mapping[str, object],
                groups: Mapping[str, Group]) -> dict[str, RowOrder]:
    """Return the checked row orders of a bundle's groups, those that have one.

    :param where: bundle.json's `orders`: null or {file, bytes, sha256}.
    :param described: each group's `permutation`: null or {tensor, absorbed_by}.
    :raises ValueError, OSError: in one line; BundleError for a malformed file.
    """
    named = {name: value for name, value in described.items() if value is not None}
    if where is None:
        if named:
            raise ValueError(f'group {min(named)}: a permutation, but the bundle has no orders')
        return {}
    path = sized_file(folder, where, 'orders')
    entries = read_header(path, BundleError)
    members = {member.name: member for group in groups.values() for member in group.members}
    absorbing: dict[str, str] = {}
    tensors = {}
    for name, value in named.items():
        label = f'group {name}: permutation'
        want_keys(value, {'tensor', 'absorbed_by'}, label)
        tensor = word(value['tensor'], f'{label}: tensor')
        if tensor in tensors:
            raise ValueError(f"{label}: tensor {tensor} is another group's")
        tensors[tensor] = name
        entry = entries.get(tensor)
        if entry is None or (entry.dtype, entry.shape) != ('I32', (groups[name].rows,)):
            raise ValueError(f'{label}: {where["file"]} has no tensor {tensor} '
                             f'I32 [{groups[name].rows}]')
        _check_absorbed(value['absorbed_by'], groups[name], members, absorbing)
    for odd in sorted(entries.keys() - tensors.keys()):
        raise ValueError(f'orders: tensor {shown(odd)} belongs to no group')
    # only now is its size known to be in proportion to the groups
    if hashlib.sha256(path.read_bytes()).hexdigest() != where['sha256']:
        raise ValueError(f'orders: {where["file"]} differs from its checksum, it is damaged')
    arrays = unpack(path, entries)
    for tensor, name in tensors.items():
        if not np.array_equal(np.sort(arrays[tensor]), np.arange(groups[name].rows)):
            raise ValueError(f'group {name}: permutation: tensor {tensor} is not a permutation '
                             f'of its {groups[name].rows} rows')
    return {name: RowOrder(arrays[tensor], tuple(named[name]['absorbed_by']))
            for tensor, name in tensors.items()}


def _check_absorbed(names, group: Group, members: Mapping[str, Member],
                    absorbing: dict[str, str]) -> None:
    label = f'group {group.name}: absorbed_by'
    if not isinstance(names, list):
        raise ValueError(f'{label} must be a list of linear layers')
    for name in names:
        member = members.get(name) if isinstance(name, str) else None
        if member is None or member.columns != group.rows:
            raise ValueError(f'{label}: {shown(name)} is no linear layer with '
                             f'{group.rows} output channels')
        if name in absorbing:
            raise ValueError(f'{label}: {name} absorbs the order of group {absorbing[name]}')
        absorbing[name] = group.name


def describe_order(group: str, order: RowOrder) -> dict:
    """Return a group's `permutation` for bundle.json; the tensor is named after the group."""
    return {'tensor': group, 'absorbed_by': list(order.absorbed_by)}
