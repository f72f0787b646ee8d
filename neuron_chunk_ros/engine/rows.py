# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From the bytes of stored rows to the operand of a product.

How a row is stored, what is computed in and what the KV cache holds are three things: this is
where the first becomes the second.
"""

from __future__ import annotations

import torch

from neuron_chunk_ros.storage.bundle import Group

# by the row format's name
STORED = {'bfloat16': torch.bfloat16, 'float16': torch.float16, 'float32': torch.float32}


def compute_dtype(stored: str, device: str) -> torch.dtype:
    """Return the dtype to compute in: as stored, but never float16 on a CPU (unusably slow)."""
    dtype = STORED[stored]
    return torch.bfloat16 if dtype == torch.float16 and device == 'cpu' else dtype


def stored(raw: torch.Tensor, group: Group, rows: int) -> torch.Tensor:
    """Return the first rows in a buffer's bytes, uint8, as [rows, columns] of the stored type."""
    return raw[:rows * group.row_bytes].view(STORED[group.dtype]).view(rows, group.columns)


def operand(weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Return rows in the type and on the device of the activation they are multiplied by."""
    return weights.to(inputs.device, inputs.dtype)
