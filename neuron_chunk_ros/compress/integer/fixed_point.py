# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Scales as integers: multiply, add half, shift. Integer arithmetic on int64 tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from neuron_chunk_ros.compress.recipe import FixedPoint
from neuron_chunk_ros.errors import RecipeError

ACCUMULATOR_BITS = 32
_KEPT_BITS = 16


@dataclass(frozen=True)
class Multiplier:
    """A ratio of scales as integers: by / 2^shift."""

    by: torch.Tensor  # int64, one or one an output
    shift: int        # the recipe's fraction, more where the ratio is small

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        """Return codes * by / 2^shift, rounded half up, all int64."""
        return (codes * self.by + (1 << self.shift >> 1)) >> self.shift

    def view(self, *shape: int) -> Multiplier:
        """Return it with `by` in another shape."""
        return Multiplier(self.by.view(*shape), self.shift)


def multiplier(ratio: torch.Tensor | float, fixed: FixedPoint, what: str) -> Multiplier:
    """Return a ratio of scales in the recipe's word.

    A small one is shifted further, so that some 16 bits of it are left. Raises RecipeError where
    it doesn't fit the word.
    """
    ratio = torch.as_tensor(ratio, dtype=torch.float64)
    largest = float(ratio.abs().max())
    kept = min(_KEPT_BITS, fixed.word - 2)
    further = max(0, kept - math.floor(math.log2(largest) if largest else 0) - fixed.fraction)
    found = (ratio * 2.0 ** (fixed.fraction + further)).round().to(torch.int64)
    if int(found.abs().max()) >= 1 << (fixed.word - 1):
        raise RecipeError(f'{what}: a scale of {largest:.4g} does not fit {fixed.word} bits with '
                          f'{fixed.fraction} behind the point: lower the fraction or raise the '
                          'word')
    return Multiplier(found, fixed.fraction + further)


def saturate(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Clamp to signed integers of so many bits."""
    return codes.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def accumulator_bits(weights: torch.Tensor, bias: torch.Tensor | None, input_bits: int) -> int:
    """Return the signed bits that a sum of products may need, at worst.

    :param weights: int64 [outputs, inputs]; bias: int64 [outputs].
    """
    worst = weights.abs().sum(dim=1) * (1 << (input_bits - 1))
    if bias is not None:
        worst = worst + bias.abs()
    return int(worst.max()).bit_length() + 1


def whole_sqrt(values: torch.Tensor) -> torch.Tensor:
    """Return the largest integers whose squares are no larger, of int64 from 0 to 2^62."""
    root = values.double().sqrt().floor().to(torch.int64)
    root -= (root * root > values).to(torch.int64)
    return root + ((root + 1) * (root + 1) <= values).to(torch.int64)


def round_half_up(values: torch.Tensor) -> torch.Tensor:
    """Round as Multiplier does; gradients go straight through."""
    return values + ((values + 0.5).floor() - values).detach()


def exact_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the matrix product of int64 tensors; sums must be below 2^53.

    By float64's product, which is exact there and far faster than integers' on a CPU.
    """
    return (left.double() @ right.double()).to(torch.int64)


def as_list(values: torch.Tensor) -> Sequence[int]:
    """Return a vector's integers."""
    return values.flatten().tolist()
