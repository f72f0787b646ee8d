# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Selection policies: from importance and a row budget to the runs that are read.

Each is called with importance float32 [rows], the number of rows it may choose and the bytes of
a row, and returns runs (see runs.py). The selection itself is native code.
"""

from collections.abc import Callable

import numpy as np

from neuron_chunk_ros import _native
from neuron_chunk_ros.chunking import runs
from neuron_chunk_ros.storage.profile import Profile

Select = Callable[[np.ndarray, int, int], np.ndarray]

# (chunk size, jump cap) in KiB per matrix shape (rows, columns): Neuron Chunking, Table 2, the
# Orin Nano's column.
TABLE_2_NANO = {
    (3584, 3584): (24, 36), (8960, 1536): (20, 20), (896, 4864): (8, 8), (4096, 1024): (12, 12),
    (3584, 18944): (8, 8), (4096, 4096): (24, 24), (18944, 3584): (36, 36),
    (1536, 1536): (16, 12), (1536, 256): (8, 8), (896, 128): (8, 8), (14336, 4096): (40, 36),
    (4864, 896): (20, 16), (3584, 512): (8, 12), (896, 896): (8, 8), (4096, 14336): (8, 8),
    (1536, 8960): (8, 8),
}


def greedy_parameters(rows: int, row_bytes: int) -> tuple[int, int]:
    """Return (chunk size, jump cap) [KiB] for a matrix: the paper's, else about four rows."""
    known = TABLE_2_NANO.get((rows, row_bytes // 2))
    if known:
        return known
    size = int(np.clip(4 * row_bytes / 1024, 8, 36))
    return size, size


def dense(importance: np.ndarray, rows: int, row_bytes: int) -> np.ndarray:
    """Choose everything."""
    return runs.whole(len(importance))


def topk(importance: np.ndarray, rows: int, row_bytes: int) -> np.ndarray:
    """Choose the most important rows one by one: the baseline of Neuron Chunking, section 5."""
    return _native.select_topk(importance, rows)


def greedy(profile: Profile) -> Select:
    """Return Neuron Chunking's Algorithm 1 under this storage profile."""
    def select(importance: np.ndarray, rows: int, row_bytes: int) -> np.ndarray:
        size, jump = greedy_parameters(len(importance), row_bytes)
        # No window is longer than the table: a longer run pays the saturated price per KiB
        # anyhow. It must hold at least one row, though.
        largest = max(profile.saturation_kib, size, -(-row_bytes // 1024))
        chosen = _native.select_greedy(importance, rows, row_bytes, profile.table(largest),
                                       size, largest, size, jump)
        # Algorithm 1 takes nothing at all where its smallest window exceeds the budget.
        return chosen if len(chosen) else topk(importance, rows, row_bytes)
    return select


POLICIES = ('dense', 'topk', 'greedy')


def make_policy(name: str, profile: Profile) -> Select:
    """Return the policy of this name.

    :raises ValueError: for a name not in POLICIES.
    """
    if name not in POLICIES:
        raise ValueError(f"unknown policy '{name}': choose one of {', '.join(POLICIES)}")
    return {'dense': dense, 'topk': topk}.get(name) or greedy(profile)
