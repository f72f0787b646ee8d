# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a session under a memory budget would hold and read, told without loading anything."""

from __future__ import annotations

from dataclasses import dataclass

from neuron_chunk_ros.chunking.policies import Optimal
from neuron_chunk_ros.engine.memory_plan import MIB, MemoryPlan, plan_memory
from neuron_chunk_ros.engine.resident import read_config
from neuron_chunk_ros.engine.rows import compute_dtype
from neuron_chunk_ros.storage import profile_file
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.layout import LM_HEAD
from neuron_chunk_ros.storage.profile import Profile
from neuron_chunk_ros.storage.reader import Reader


@dataclass(frozen=True)
class Reading:
    """What a step reads where nothing is skipped, once heads are filled."""

    nbytes: int
    seconds: float  # by the profile


@dataclass(frozen=True)
class Forecast:
    """What there would be."""

    plan: MemoryPlan
    word: Reading
    frame: Reading
    note: str  # why the profile is an assumption; '' where the drive was measured


def forecast(bundle: Bundle, budget_mb: int | None, *, max_context: int, device: str = 'cpu',
             piece_mb: float = 16) -> Forecast:
    """Plan a session; see Session.open.

    :raises MemoryBudgetError: where the budget is too small, with the numbers.
    :raises ReadError, BundleError: where the bundle can't be opened.
    """
    _, config = read_config(bundle)
    context = min(max_context, config.text_config.max_position_embeddings)
    with Reader([str(path) for path in bundle.flash_files]) as reader:
        slack, block = reader.slack, reader.block_size
    plan = plan_memory(bundle, config, context=context, dtype=compute_dtype(bundle.dtype, device),
                       piece_bytes=int(piece_mb * MIB), slack=slack, budget_mb=budget_mb,
                       head_mb=None)
    profile, note = profile_file.find(bundle.path)
    price = Optimal(profile or Profile.assumed(), block)

    def reading(names: list[str]) -> Reading:
        tails = [(bundle.multiplied[name].rows - plan.head_rows[name],
                  bundle.multiplied[name].row_bytes) for name in names]
        tails += [(bundle.bases[name].rows, bundle.bases[name].row_bytes)
                  for name in names if name in plan.streamed]
        return Reading(sum(rows * row_bytes for rows, row_bytes in tails),
                       sum(price.whole_seconds(*tail) for tail in tails if tail[0]))

    return Forecast(plan, reading(list(bundle.multiplied)),
                    reading([name for name in bundle.multiplied if name != LM_HEAD]), note)
