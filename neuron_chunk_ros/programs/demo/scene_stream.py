# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which scene the tabletop camera shows as its n-th: the same for whoever knows the seed."""

import numpy as np

from neuron_chunk_ros.tabletop.scenes import Scene, random_scene


def nth_scene(seed: int, index: int) -> Scene:
    """Return the scene with this index, counted from 0, of the stream with this seed."""
    return random_scene(np.random.default_rng([seed, index]))
