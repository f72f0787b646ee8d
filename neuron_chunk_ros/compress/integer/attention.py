# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Attention with both paths: integer products, softmax by two tables and a division."""

from __future__ import annotations

import math

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from neuron_chunk_ros.compress.integer.fixed_point import exact_product, multiplier
from neuron_chunk_ros.compress.integer.layers import Range
from neuron_chunk_ros.compress.integer.values import Codes, Paths
from neuron_chunk_ros.compress.recipe import Rule

NAME = 'integers'           # as transformers' configs call it
EXP_BITS = 12               # of e's exponent behind the point
_FINE = 6                   # of these, in the second table
_REACH = 16                 # below the largest score by more than this is nothing
PROBABILITY_BITS = 15
_TABLE_VALUE_BITS = 16


class DualAttention:
    """The paths of one attention module."""

    def __init__(self, name: str, rule: Rule, paths: Paths):
        self.name, self.paths = name, paths
        bits, quantiser = rule.activations.bits, rule.activations.quantiser
        self.query, self.key, self.value, self.output = (
            Range(bits, quantiser) for _ in range(4))

    def ranges(self) -> dict[str, Range]:
        """Return what has a grid, by name."""
        return {'query': self.query, 'key': self.key, 'value': self.value, 'output': self.output}

    def settle(self) -> None:
        """Turn what was observed into grids."""
        for what, one in self.ranges().items():
            one.settle(f'{self.name}: {what}')

    def __call__(self, query, key, value, mask, scaling: float, causal: bool) -> torch.Tensor:
        """Return [batch, heads, queries, width]."""
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
        if mask is None and causal and query.shape[2] > 1:
            length = key.shape[2]
            behind = torch.ones(length, length, dtype=torch.bool).tril()
            mask = torch.zeros(length, length).masked_fill(~behind, -1e9)[-query.shape[2]:]
        if self.paths.now in ('train', 'integer'):
            return self._on_grids(query, key, value, mask, scaling)
        scores = query @ key.transpose(2, 3) * scaling
        if mask is not None:
            scores = scores + mask[..., :key.shape[2]].to(scores.dtype)
        out = scores.softmax(dim=-1) @ value
        if self.paths.now == 'observe':
            for one, x in zip(self.ranges().values(), (query, key, value, out), strict=True):
                one.observe(x)
        return out

    def _on_grids(self, query: Codes, key: Codes, value: Codes, mask, scaling: float) -> Codes:
        paths, fixed = self.paths, self.paths.fixed
        query, key, value = (
            one.codes(x, paths, f'{self.name}: {what}') for (what, one), x in zip(
                self.ranges().items(), (query, key, value), strict=False))
        product = torch.matmul if paths.training else exact_product
        scores = product(query, key.transpose(2, 3))
        visible = None if mask is None else (
            mask.as_subclass(torch.Tensor)[..., :key.shape[2]] > -1)
        # To units of e's exponent.
        unit = self.query.scale * self.key.scale * scaling
        by = multiplier(unit * 2.0 ** EXP_BITS, fixed, f'{self.name}: scores')
        weights, first = softmax(by(scores.detach().to(torch.int64)), visible), by
        if paths.training:  # the tables' numbers, the function's gradient
            hidden = scores * unit
            if visible is not None:
                hidden = hidden.masked_fill(~visible, -1e9)
            smooth = hidden.softmax(dim=-1) * 2.0 ** PROBABILITY_BITS
            weights = smooth + (weights.to(smooth.dtype) - smooth).detach()
        sums = product(weights, value)
        by = multiplier(2.0 ** -PROBABILITY_BITS * self.value.scale / self.output.scale, fixed,
                        f'{self.name}: output')
        out = paths.rescale(sums, by, self.output.bits)
        everywhere = torch.ones(scores.shape[-2:], dtype=torch.bool)
        paths.tell(self.name, 'attention', {
            'query': query, 'key': key, 'value': value, 'scores': scores, 'weights': weights,
            'visible': everywhere if visible is None else visible,
            **dict(zip(('coarse', 'fine'), exp_tables(), strict=True)),
            'score_multiplier': first.by, 'multiplier': by.by, 'output': out}, {
            **{f'{what}_scale': one.scale for what, one in self.ranges().items()},
            'input_bits': self.query.bits, 'bits': self.output.bits,
            'score_shift': first.shift, 'shift': by.shift, 'exponent_bits': EXP_BITS,
            'fine_bits': _FINE, 'reach': _REACH, 'table_bits': _TABLE_VALUE_BITS,
            'probability_bits': PROBABILITY_BITS})
        return paths.codes(out, self.output.scale)


def softmax(scores: torch.Tensor, visible: torch.Tensor | None) -> torch.Tensor:
    """Return softmax of integers in units of 2^-12, with 15 bits behind the point, int64.

    :param visible: bool, where a score counts at all; None: everywhere.
    """
    if visible is not None:
        scores = torch.where(visible, scores, -(1 << 40))
    below = (scores.amax(dim=-1, keepdim=True) - scores).clamp(max=(_REACH << EXP_BITS) - 1)
    coarse, fine = exp_tables()
    powers = (coarse[below >> _FINE] * fine[below & ((1 << _FINE) - 1)]) >> _TABLE_VALUE_BITS
    if visible is not None:
        powers = torch.where(visible, powers, 0)
    total = powers.sum(dim=-1, keepdim=True)
    return torch.div((powers << PROBABILITY_BITS) + (total >> 1), total, rounding_mode='floor')


def exp_tables() -> tuple[torch.Tensor, torch.Tensor]:
    """Return exp(-i / 2^6) and exp(-i / 2^12) with 16 bits behind the point, int64."""
    one = float(1 << _TABLE_VALUE_BITS)
    coarse = [round(one * math.exp(-i / (1 << (EXP_BITS - _FINE))))
              for i in range(_REACH << (EXP_BITS - _FINE))]
    fine = [round(one * math.exp(-i / (1 << EXP_BITS))) for i in range(1 << _FINE)]
    return torch.tensor(coarse), torch.tensor(fine)


def _forward(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    scaling = module.head_dim ** -0.5 if scaling is None else scaling
    causal = kwargs.get('is_causal')
    causal = module.is_causal if causal is None else causal
    out = module.dual_attention(query, key, value, attention_mask, scaling, causal)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, eager_mask)
