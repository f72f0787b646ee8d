# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Products with any number of rows, at the price of few.

On a CPU, torch's bfloat16 product generates and keeps a kernel for every new shape. Selections
have a different number of rows nearly every time: each would pay for a kernel of its own (12 ms
instead of 0.8 for 40 tokens x 5632 columns, one core) and keep it in memory. So rows are
multiplied in multiples of STEP, the rest padded to STEP with zero activations.
"""

from __future__ import annotations

import torch

STEP = 64


class Products:
    """Multiplies on one device; keeps one scratch block for each width it has met."""

    def __init__(self):
        self._scratch: dict[int, torch.Tensor] = {}

    def __call__(self, inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return inputs [tokens, n] @ weights [n, columns], in float32 where parts were added."""
        rows = len(weights)
        rest = rows % STEP
        if not rest or inputs.device.type != 'cpu' or inputs.dtype != torch.bfloat16:
            return inputs @ weights
        block = self._scratch.get(weights.shape[1])
        if block is None:
            block = self._scratch[weights.shape[1]] = weights.new_zeros(STEP, weights.shape[1])
        # Rows left from earlier products need no wiping: they meet zero activations.
        block[:rest] = weights[rows - rest:]
        padded = inputs.new_zeros(len(inputs), STEP)
        padded[:, :rest] = inputs[:, rows - rest:]
        product = padded @ block
        if rows == rest:
            return product
        # Contiguous: another stride would be another shape to the kernel cache.
        main = inputs[:, :rows - rest].contiguous() @ weights[:rows - rest]
        return main.float().add_(product)
