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


def read_orders(folder: Path, where, described: Mapping[str, object], kept: Mapping[str, str],
                groups: Mapping[str, Group]) -> tuple[dict[str, RowOrder], dict[str, np.ndarray]]:
    """Return the checked row orders of a bundle's groups, and the channels kept, by group.

    :param where: bundle.json's `orders`: null or {file, bytes, sha256}.
    :param described: each group's `permutation`: null or {tensor, absorbed_by}.
    :param kept: of groups that were pruned the tensor of the channels that have a row.
    :raises ValueError, OSError: in one line; BundleError for a malformed file.
    """
    named = {name: value for name, value in described.items() if value is not None}
    if where is None:
        if named or kept:
            raise ValueError(f'group {min([*named, *kept])}: a permutation or channels kept, but '
                             'the bundle has no orders')
        return {}, {}
    path = sized_file(folder, where, 'orders')
    entries = read_header(path, BundleError)
    members = {member.name: member for group in groups.values() for member in group.members}
    kept = {described: name for name, described in kept.items()}
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
    for tensor, name in kept.items():
        if tensor in tensors or entries.get(tensor) is None or (
                entries[tensor].dtype, entries[tensor].shape) != ('I32', (groups[name].rows,)):
            raise ValueError(f'group {name}: kept: {where["file"]} has no tensor {tensor} '
                             f'I32 [{groups[name].rows}]')
    for odd in sorted(entries.keys() - tensors.keys() - kept.keys()):
        raise ValueError(f'orders: tensor {shown(odd)} belongs to no group')
    # only now is its size known to be in proportion to the groups
    if hashlib.sha256(path.read_bytes()).hexdigest() != where['sha256']:
        raise ValueError(f'orders: {where["file"]} differs from its checksum, it is damaged')
    arrays = unpack(path, entries)
    for tensor, name in tensors.items():
        if not np.array_equal(np.sort(arrays[tensor]), np.arange(groups[name].rows)):
            raise ValueError(f'group {name}: permutation: tensor {tensor} is not a permutation '
                             f'of its {groups[name].rows} rows')
    for tensor, name in kept.items():
        channels = arrays[tensor]
        if channels[0] < 0 or channels[-1] >= groups[name].inputs or (
                np.diff(channels.astype(np.int64)) <= 0).any():
            raise ValueError(f'group {name}: kept: tensor {tensor} is no ascending choice of its '
                             f'{groups[name].inputs} channels')
    return ({name: RowOrder(arrays[tensor], tuple(named[name]['absorbed_by']))
             for tensor, name in tensors.items()},
            {name: arrays[tensor] for tensor, name in kept.items()})


def _check_absorbed(names, group: Group, members: Mapping[str, Member],
                    absorbing: dict[str, str]) -> None:
    label = f'group {group.name}: absorbed_by'
    if not isinstance(names, list):
        raise ValueError(f'{label} must be a list of linear layers')
    for name in names:
        member = members.get(name) if isinstance(name, str) else None
        if member is None or member.columns != group.rows or group.inputs:
            raise ValueError(f'{label}: {shown(name)} is no linear layer with '
                             f'{group.rows} output channels')
        if name in absorbing:
            raise ValueError(f'{label}: {name} absorbs the order of group {absorbing[name]}')
        absorbing[name] = group.name


def kept_name(group: str) -> str:
    """Return the name of the tensor of the channels that a group keeps."""
    return f'{group}.kept'


def describe_order(group: str, order: RowOrder) -> dict:
    """Return a group's `permutation` for bundle.json; the tensor is named after the group."""
    return {'tensor': group, 'absorbed_by': list(order.absorbed_by)}
