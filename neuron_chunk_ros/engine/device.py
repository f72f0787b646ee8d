# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a torch device can be used here."""

import torch

from neuron_chunk_ros.errors import out_of_memory


def check_device(device: str) -> None:
    """Raise ValueError, naming the cure, for a device that doesn't exist or can't compute."""
    try:
        # Not an empty tensor alone: one on 'meta' can be made, but holds no values.
        if (torch.ones(2, device=device) * 2).tolist() == [2.0, 2.0]:
            return
        reason = 'it computes nonsense'
    except Exception as error:  # back ends raise whatever they like where they aren't there
        if out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise ValueError(f"device '{device}' can't be used: {reason}; give cpu, cuda or cuda:N")
