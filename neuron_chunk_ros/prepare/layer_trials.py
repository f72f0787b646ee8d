# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One decoder layer with samples at its door: what skipping rows does to its output.

transformers stays the definition of the layer: it is called as it is, on flash-backed linear
layers that `Layer` multiplies for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from neuron_chunk_ros.engine.products import STEP
from neuron_chunk_ros.storage.bundle import Group
from neuron_chunk_ros.storage.calibration import KINDS


@dataclass
class SampleBatch:
    """Samples of equal length that go through a layer together."""

    samples: list[int]        # their numbers
    visual: torch.Tensor      # bool [samples, tokens]
    hidden: torch.Tensor      # [samples, tokens, width]: a layer's input, then its output
    arguments: list[dict]     # what transformers passes to each layer beside the hidden states
    trial: bool               # whether trials look at these samples

    def tokens(self, kind: str) -> torch.Tensor:
        """Return where this batch's tokens are of this kind, bool [samples, tokens]."""
        return self.visual if kind == 'visual' else ~self.visual


@dataclass
class Layer:
    """One decoder layer with its weights, the samples' inputs and its dense outputs.

    Stands in for FlashProducts behind the flash-backed linear layers (see GroupProducts).
    """

    groups: list[Group]                       # in the order they are computed
    batches: list[SampleBatch]
    importance: dict[str, dict[str, np.ndarray]]  # group -> kind -> float32 [samples, rows]
    _index: int
    _module: torch.nn.Module
    weights: Mapping[str, torch.Tensor]       # group -> [rows, columns]
    dense: list[torch.Tensor] = field(default_factory=list)  # each batch's output
    _kind: str = ''
    _sparsity: Mapping[str, float] = field(default_factory=dict)
    _batch: int = 0
    # (batch, group) -> its input, as masked, and product in the state that trials start from:
    # tokens whose input is the same again need no product
    _base: dict = field(default_factory=dict)
    _trial: dict = field(default_factory=dict)

    def run_dense(self) -> None:
        """Compute the layer's outputs and the importance of its inputs with nothing skipped."""
        self._kind = ''
        self.dense = [self._run(index) for index in range(len(self.batches))]

    def start(self, kind: str) -> None:
        """Begin trials that skip rows for the tokens of this kind; nothing is skipped yet."""
        self._kind, self._base, self._trial = kind, {}, {}
        self.settle({})

    def error(self, sparsity: Mapping[str, float]) -> float:
        """Return the squared L2 error of the outputs when each group skips so much of its rows.

        Each sample keeps its most important rows, one choice for all its tokens of the kind; its
        other tokens meet every row. Only samples in batches marked `trial` are looked at.
        """
        self._sparsity, self._trial = dict(sparsity), {}
        return sum(_squared(self._run(index).float() - dense.float())
                   for index, dense in self._trials())

    def settle(self, sparsity: Mapping[str, float]) -> None:
        """Let the next trials start from these sparsities: what stays equal is not computed."""
        if not self._trial or self._sparsity != dict(sparsity):
            self.error(sparsity)
        self._base.update(self._trial)

    def norm(self) -> float:
        """Return the squared L2 norm of the dense outputs that `error` compares with."""
        return sum(_squared(dense.float()) for _, dense in self._trials())

    def multiply(self, group: Group, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs @ W over the rows kept: [tokens, rows] -> [tokens, columns]."""
        if group.permutation is not None:
            order = torch.from_numpy(group.permutation).to(inputs.device)
            inputs = inputs.index_select(1, order)
        weights = self.weights[group.name]
        if not self._kind:
            self._record(group, inputs)
            return inputs @ weights
        key, sparsity = (self._batch, group.name), self._sparsity.get(group.name, 0.0)
        masked = self._masked(inputs, sparsity) if sparsity else inputs
        self._trial[key] = masked, self._product(masked, weights, *self._base.get(key, ()))
        return self._trial[key][1]

    def _trials(self) -> Iterator[tuple[int, torch.Tensor]]:
        return ((index, dense) for index, dense in enumerate(self.dense)
                if self.batches[index].trial)

    def _run(self, index: int) -> torch.Tensor:
        self._batch, batch = index, self.batches[index]
        out = self._module(batch.hidden, **batch.arguments[self._index])
        return out[0] if isinstance(out, tuple) else out

    def _masked(self, inputs: torch.Tensor, sparsity: float) -> torch.Tensor:
        tokens = self.batches[self._batch].tokens(self._kind)
        split = inputs.view(*tokens.shape, -1)
        importance = _importance(split, tokens)
        rows = split.shape[2]
        kept = max(1, round(rows * (1 - sparsity)))
        dropped = importance.argsort(dim=1, descending=True, stable=True)[:, kept:]
        mask = torch.zeros(importance.shape, dtype=torch.bool, device=inputs.device)
        mask.scatter_(1, dropped, True)
        return split.masked_fill(mask[:, None] & tokens[:, :, None], 0).view(inputs.shape)

    @staticmethod
    def _product(inputs: torch.Tensor, weights: torch.Tensor, known: torch.Tensor | None = None,
                 product: torch.Tensor | None = None) -> torch.Tensor:
        """Return inputs @ weights, given another input's product."""
        if known is None:
            return inputs @ weights
        changed = (known != inputs).any(dim=1).nonzero()[:, 0]
        if not len(changed):
            return product
        # a CPU's bfloat16 product makes itself ready for each new shape: let there be few
        padding = changed[-1:].expand(-len(changed) % STEP)
        changed = torch.cat([changed, padding])
        if len(changed) >= len(inputs):
            return inputs @ weights
        return product.index_put((changed,), inputs[changed] @ weights)

    def _record(self, group: Group, inputs: torch.Tensor) -> None:
        batch = self.batches[self._batch]
        for kind in KINDS:
            tokens = batch.tokens(kind)
            found = _importance(inputs.view(*tokens.shape, -1), tokens)
            self.importance[group.name][kind][batch.samples] = found.cpu().numpy()


def _importance(inputs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the mean magnitude over the tokens, float32 [samples, rows]."""
    weight = tokens.float() / tokens.sum(dim=1, keepdim=True).clamp(min=1)
    return (weight[:, None] @ inputs.abs().float())[:, 0]


def _squared(values: torch.Tensor) -> float:
    return float(values.square().sum(dtype=torch.float64))
