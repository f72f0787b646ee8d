# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's weights back in transformers' model: what its rows stand for, in the model's order.

For holding a bundle against the model it was made from; the whole model is in memory.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from safetensors.torch import load_file

from neuron_chunk_ros.engine.resident import described_model, read_config
from neuron_chunk_ros.storage.bundle import Bundle, Group
from neuron_chunk_ros.storage.source_groups import SourceGroups


def restore(bundle: str | os.PathLike, coarse: bool = False) -> torch.nn.Module:
    """Return the model, float32.

    :param coarse: of rows in two parts their bases alone, instead of both together.
    :raises BundleError, ReadError: for a bundle that can't be used, or is damaged.
    """
    opened = Bundle.open(bundle)
    _, config = read_config(opened)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    model = described_model(
        opened, config, dtype=torch.float32, attn_implementation='eager').eval()
    state = {name: tensor.float() for name, tensor in load_file(opened.resident_file).items()}
    outputs = {member: group.order.channels for group in opened.groups.values()
               if group.order is not None for member in group.order.absorbed_by}
    with SourceGroups(opened) as sources:
        for group in (*opened.multiplied.values(), *filter(None, [opened.embedding])):
            values = torch.from_numpy(_values(group, sources, coarse))
            for member, part in zip(group.members, values.split(list(group.widths), dim=1),
                                    strict=True):
                name = f'{member.name}.weight'
                if group is opened.embedding:
                    state[name] = part.clone()
                    continue
                weight = torch.zeros(member.columns, group.in_features)
                order = outputs.get(member.name)
                rows = slice(None) if order is None else torch.from_numpy(order).long()
                weight[rows] = _by_channel(group, part.T)
                state[name] = weight
    if opened.embedding is None and 'lm_head.weight' not in state:  # tied, and resident
        table = model.get_input_embeddings().weight
        name = next(name for name, one in model.named_parameters() if one is table)
        state['lm_head.weight'] = state[name]
    model.load_state_dict(state)
    return model


def _values(group: Group, sources: SourceGroups, coarse: bool) -> np.ndarray:
    if coarse and group.split is not None:
        base = sources.load([group.base])[group.base.name]
        return group.base.format.unpack_rows(base, group.widths)
    rows, made = sources.load([group])[group.name], group.format
    if group.split is not None:
        base = sources.load([group.base])[group.base.name]
        return group.split.unpack_rows(base, rows, group.widths)
    return made.unpack_rows(rows, group.widths) if made.packed else made.unpack(rows)


def _by_channel(group: Group, weight: torch.Tensor) -> torch.Tensor:
    """Return [outputs, input channels] of a weight whose columns lie as rows do on flash."""
    channels = group.permutation
    if channels is None and group.order is not None:
        channels = group.order.channels
    if channels is None:
        return weight
    found = torch.zeros(len(weight), group.in_features)
    found[:, torch.from_numpy(channels).long()] = weight
    return found
