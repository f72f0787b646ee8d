# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What may be asked of a policy."""

from __future__ import annotations

import math

from neuron_chunk_ros.chunking.policies import POLICIES


def check_request(policy: str, sparsity: float, text_sparsity: float,
                  deadline_ms: float) -> None:
    """Raise ValueError, naming the cure, where a policy can't be asked for this.

    :param sparsity, text_sparsity: fractions not read, [0, 1).
    :param deadline_ms: milliseconds a step may take; 0: none.
    """
    if policy not in POLICIES:
        raise ValueError(f"unknown policy '{policy}': choose one of {', '.join(POLICIES)}")
    for name, value in (('sparsity', sparsity), ('text_sparsity', text_sparsity)):
        if not (0 <= value < 1):
            raise ValueError(f'{name} is {value}: it must be at least 0 and below 1')
    if not (0 <= deadline_ms < math.inf):
        raise ValueError(f'deadline_ms is {deadline_ms}: it must be at least 0 (0: none)')
    if deadline_ms and policy == 'dense':
        raise ValueError("policy 'dense' reads everything and can't keep deadline_ms: choose "
                         "'optimal'")
