# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Hot-cold order: rows that are often needed side by side on flash (Neuron Chunking, section 4).

Offline: each calibration sample marks its most important half of the rows; rows are sorted by how
often they were marked.
"""

from __future__ import annotations

import numpy as np


def marks(importance: np.ndarray, fraction: float = 0.5) -> np.ndarray:
    """Mark the most important rows of a sample.

    :param importance: float [rows].
    :return: bool [rows], round(fraction * rows) of them true; of equals the first.
    """
    chosen = np.argsort(-importance, kind='stable')[:round(fraction * len(importance))]
    marked = np.zeros(len(importance), bool)
    marked[chosen] = True
    return marked


def hot_cold_order(counts: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Return the rows hot to cold, int32 [rows]: by how often marked, then by importance.

    :param counts: how many samples marked each row, int [rows].
    :param importance: mean over the samples, float [rows]; of equals the first row goes first.
    """
    # lexsort is stable: its last key counts most, and equals keep their order
    return np.lexsort((-importance, -counts.astype(np.int64))).astype(np.int32)
