# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A decoder in memory that multiplies as if some rows were read and others were not.

Tokens that share a choice are a *unit*: a frame's visual tokens, a question's words, each word of
an answer. A unit's rows of least importance are left out, or multiplied by their base alone.
Tests hold it against the engine; it asks thousands of questions in the time that takes hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from neuron_chunk_ros.storage.layout import Group
from neuron_chunk_ros.tabletop.exam import Sheet

DENSE = -1  # the unit of tokens for which every row is read


@dataclass(frozen=True)
class Reading:
    """What is read for a unit."""

    share: float = 1.0            # of the rows that aren't held, read or refined
    held: float = 0.0             # share of the rows, the hottest ones, that need no read
    coarse: bool = False          # the others count with their base, instead of nothing
    out: float = 0.0              # but for this share of all rows, those of least importance


def units_of(sheet: Sheet, words: bool) -> torch.Tensor:
    """Return whose choice each token shares, DENSE for none: int64 [B, L].

    :param words: whether questions and answers choose, too; else visual tokens alone.
    """
    found = torch.full_like(sheet.frames, DENSE)
    visual = sheet.frames >= 0
    found[visual] = sheet.frames[visual]
    if words:
        batch = sheet.batch
        owner = functional.pad(batch.owner, (1, 0), value=-1)
        # Words of an answer are fed back one by one; a step reads for each.
        answering = (batch.owner >= 0) & (owner[:, :-1] == batch.owner)
        each = torch.arange(found.numel()).view_as(found)
        asked = torch.arange(len(found))[:, None] * (batch.segment.max() + 2) + batch.segment + 1
        start = int(sheet.frames.max()) + 1
        # Padding counts as a unit of its own, of which nobody sees anything.
        found = torch.where(visual, found, start + torch.where(
            answering, int(asked.max()) + 1 + each, asked.clamp(min=0)))
    return found


class SharedRows:
    """Hooks on a decoder's linear layers; a context manager that takes them off again."""

    def __init__(self, model: torch.nn.Module, groups: Sequence[Group],
                 coarse: Mapping[str, torch.Tensor], orders: Mapping[str, np.ndarray]):
        """Prepare.

        :param groups: the linear layers that share an input, by module path.
        :param coarse: weight [outputs, inputs] of each linear layer from its rows' bases.
        :param orders: of each group, channels from the hottest on.
        """
        self._model, self._groups, self._coarse, self._orders = model, groups, coarse, orders
        self.reading = Reading()
        self._owner = torch.zeros(0)
        self._hooks: list = []
        # Of the layer that came last: (its input, what is read, the rest).
        self._last: tuple = (None, None, None)

    def enter(self, units: torch.Tensor) -> None:
        """Tell whose tokens come next: int64 [B, L], see `units_of`."""
        chooses = units != DENSE
        _, numbers = units[chooses].unique(return_inverse=True)
        self._owner = torch.full_like(units, DENSE)
        self._owner[chooses] = numbers
        self._last = (None, None, None)

    def __enter__(self) -> SharedRows:
        for group in self._groups:
            for member in group.members:
                linear = self._model.get_submodule(member.name)
                name = member.name
                self._hooks.append(linear.register_forward_pre_hook(
                    lambda _, inputs, group=group: (self._cut(group, inputs[0])[1],)))
                self._hooks.append(linear.register_forward_hook(
                    lambda _, inputs, out, name=name: self._added(name, out)))
        return self

    def __exit__(self, *exc_info) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._last = (None, None, None)

    def _added(self, name: str, out: torch.Tensor) -> torch.Tensor:
        rest = self._last[2]
        if rest is None:
            return out
        return out + functional.linear(rest, self._coarse[name])

    def _cut(self, group: Group, inputs: torch.Tensor) -> tuple:
        if self._last[0] is inputs:  # a layer that shares its input with the one before
            return self._last
        reading, choosing = self.reading, self._owner != DENSE
        if reading.share >= 1 or not choosing.any():
            self._last = (inputs, inputs, None)
            return self._last
        owner, tokens = self._owner[choosing], inputs[choosing]
        units, rows = int(owner.max()) + 1, inputs.shape[-1]
        importance = torch.zeros(units, rows).index_add_(0, owner, tokens.abs().float())
        importance /= torch.bincount(owner, minlength=units)[:, None]
        held = round(reading.held * rows)
        hot = torch.from_numpy(self._orders[group.name][:held].astype(np.int64))
        read = torch.zeros(units, rows, dtype=torch.bool)
        read[:, hot] = True
        most = round(reading.share * (rows - held))
        importance[:, hot] = -1
        read.scatter_(1, importance.topk(most, dim=1).indices, True)
        kept, rest = inputs.clone(), None
        chosen = read[owner]
        kept[choosing] = tokens * chosen
        if reading.coarse:
            rest = torch.zeros_like(inputs)
            there = ~read
            if reading.out:
                least = importance.topk(round(reading.out * rows), dim=1, largest=False).indices
                there.scatter_(1, least, False)
            rest[choosing] = tokens * there[owner]
        self._last = (inputs, kept, rest)
        return self._last


def hot_orders(model: torch.nn.Module, groups: Sequence[Group], run: Callable[[], None]
               ) -> dict[str, np.ndarray]:
    """Return each group's channels from the hottest on, by mean importance.

    :param run: runs the model over what importance is taken of.
    """
    sums: dict[str, torch.Tensor] = {}
    hooks = []
    for group in groups:
        def add(_, inputs, name=group.name):
            found = inputs[0].abs().float().flatten(0, -2).mean(0)
            sums[name] = sums.get(name, 0) + found
        hooks.append(model.get_submodule(group.members[0].name).register_forward_pre_hook(add))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total.argsort(descending=True).numpy() for name, total in sums.items()}
