# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Compressing a model the user's way, down to integers (Torch2Chip, Meng et al. 2024).

A recipe says what becomes of which layers; quantisers and pruners are small classes, also the
user's own. What comes out is a bundle that the engine runs from flash, or integers for hardware.
"""

from importlib import import_module

from neuron_chunk_ros.compress.algorithms import (
    Linear,
    Pruner,
    Quantiser,
    algorithms_of,
    pruner,
    quantiser,
)
from neuron_chunk_ros.compress.grids import Grid

for _room in ('rounding', 'pruning'):  # they register themselves
    import_module(f'{__name__}.{_room}')

__all__ = ['Grid', 'Linear', 'Pruner', 'Quantiser', 'algorithms_of', 'pruner', 'quantiser']
