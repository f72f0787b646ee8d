# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A model as it would answer if rows were skipped for visual tokens, its weights in memory.

The visual tokens of a frame share one selection in each group; text tokens skip nothing (see
docs/BENCHMARKS.md). A neuron whose row is not read adds nothing, so its activation is set to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from neuron_chunk_ros.storage.layout import GroupPlan

# (number of the group, importance float32 [frames, rows]) -> rows that are read, bool alike.
Choose = Callable[[int, np.ndarray], np.ndarray]


class FrameMasks:
    """Hooks on a decoder's linear layers; a context manager that takes them off again."""

    def __init__(self, model: torch.nn.Module, groups: Sequence[GroupPlan], choose: Choose):
        """Prepare.

        :param groups: the linear layers that share an input, by module path.
        :param choose: called once for each group and batch.
        """
        self._model, self._groups, self._choose = model, groups, choose
        self._frames: torch.Tensor | None = None
        self._hooks: list = []
        self._seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def enter_batch(self, frames: torch.Tensor) -> None:
        """Tell whose tokens come next: int64 [B, L], the frame of each token, -1 for text."""
        self._frames = frames
        self._seen.clear()

    def __enter__(self) -> FrameMasks:
        for index, group in enumerate(self._groups):
            for member in group.members:
                linear = self._model.get_submodule(member.name)
                self._hooks.append(linear.register_forward_pre_hook(
                    lambda _, inputs, index=index: (self._masked(index, inputs[0]),)))
        return self

    def __exit__(self, *exc_info) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._seen.clear()

    def _masked(self, index: int, inputs: torch.Tensor) -> torch.Tensor:
        """Return [B, L, rows] with the skipped neurons of visual tokens at 0."""
        before, after = self._seen.get(index, (None, None))
        if before is inputs:  # a layer that shares its input with one that was here already
            return after
        visual = self._frames >= 0
        owner = self._frames[visual]
        tokens = inputs[visual]
        frames = int(owner.max()) + 1
        sums = torch.zeros(frames, inputs.shape[-1]).index_add_(0, owner, tokens.abs().float())
        importance = sums / torch.bincount(owner, minlength=frames)[:, None]
        read = torch.from_numpy(self._choose(index, importance.numpy()))
        masked = inputs.clone()
        masked[visual] = tokens * read[owner]
        self._seen[index] = (inputs, masked)
        return masked
