# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Camera frames to pixel tensors."""

from collections.abc import Sequence

import numpy as np
from PIL import Image


def squash(image: np.ndarray, size: int, mean: Sequence[float], std: Sequence[float]):
    """Resize a frame to a square (bicubic, aspect not kept) and normalise it.

    The same as LLaVA-OneVision's video processor does to each frame.

    :param image: uint8 [height, width, 3], RGB.
    :return: float32 [3, size, size].
    """
    small = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    unit = np.asarray(small, np.float32) / 255
    return ((unit - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)).transpose(2, 0, 1)
