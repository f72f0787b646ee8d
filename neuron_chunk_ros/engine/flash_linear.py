# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Linear layers whose weights stay on flash.

The layers of a group get the same input, so the first one called has all of them computed in
one pass over the group's rows; the others take their part of that result.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from neuron_chunk_ros.engine.flash_products import GroupProducts
from neuron_chunk_ros.storage.bundle import Group


class FlashGroup:
    """The layers of one group; holds a result only until each layer has taken its part."""

    def __init__(self, group: Group, products: GroupProducts):
        self.group = group
        self._products = products
        self._input: torch.Tensor | None = None
        self._parts: dict[int, torch.Tensor] = {}

    def project(self, inputs: torch.Tensor, member: int) -> torch.Tensor:
        """Return inputs @ W of one member: [..., rows] -> [..., the member's columns]."""
        if inputs is not self._input or member not in self._parts:
            product = self._products.multiply(
                self.group, inputs.reshape(-1, self.group.in_features))
            product = product.view(*inputs.shape[:-1], self.group.columns)
            if len(self.group.members) == 1:
                return product
            self._parts = dict(enumerate(product.split(self.group.widths, dim=-1)))
            self._input = inputs
        part = self._parts.pop(member)
        if not self._parts:
            self._input = None
        return part

    def forget(self) -> None:
        """Drop what an interrupted pass left behind."""
        self._input, self._parts = None, {}


class FlashLinear(torch.nn.Module):
    """Stands in for a torch.nn.Linear; its bias, if any, is resident."""

    def __init__(self, group: FlashGroup, member: int, bias: torch.nn.Parameter | None):
        super().__init__()
        self._group, self._member = group, member
        self.in_features = group.group.in_features
        self.out_features = group.group.members[member].columns
        self.register_parameter('bias', bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs @ W + bias."""
        out = self._group.project(inputs, self._member)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        """Show shapes as torch.nn.Linear does."""
        return (f'in_features={self.in_features}, out_features={self.out_features}, '
                f'bias={self.bias is not None}, group={self._group.group.name}')


def replace_linears(model: torch.nn.Module, groups: Mapping[str, Group],
                    products: GroupProducts) -> list[FlashGroup]:
    """Put flash-backed layers in the place of the model's, return their groups.

    :raises KeyError, AttributeError: where a member names no module of the model.
    """
    made = []
    for group in groups.values():
        flash = FlashGroup(group, products)
        made.append(flash)
        for index, member in enumerate(group.members):
            path, _, name = member.name.rpartition('.')
            parent = model.get_submodule(path)
            linear = getattr(parent, name)
            if (linear.in_features, linear.out_features) != (group.in_features, member.columns):
                raise ValueError(f'{member.name}: the model wants {linear.in_features} x '
                                 f'{linear.out_features}, the bundle holds {group.in_features} x '
                                 f'{member.columns}')
            setattr(parent, name, FlashLinear(flash, index, linear.bias))
    return made
