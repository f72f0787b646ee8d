# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How many bits of each group are held: what errs least in the memory there is for bases."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.storage.layout import GroupPlan
from neuron_chunk_ros.storage.packed_rows import Split

MIB = 1 << 20


def choose(plans: Sequence[GroupPlan], splits: Sequence[Split],
           some_weights: Callable[[GroupPlan], np.ndarray], nbytes: int) -> dict[str, Split]:
    """Return how each group's rows are cut, by name.

    From the fewest bits on, the next to get one more is the group whose bases' relative squared
    error falls most for the bytes. Of inputs nothing is known here: `compress` measures them.

    :param splits: those to choose from, by rising bits of the base.
    :param some_weights: returns a sample of a group's weights, float32 [rows, columns].
    :param nbytes: for all bases of these groups.
    :raises ModelError: where not even the fewest bits fit, with the numbers.
    """
    errors = {plan.name: _errors(some_weights(plan), splits) for plan in plans}
    sizes = {plan.name: [plan.rows * one.base.row_bytes(plan.widths) for one in splits]
             for plan in plans}
    left = nbytes - sum(size[0] for size in sizes.values())
    if left < 0:
        raise ModelError(f'bases of {splits[0].base.bits} bits take '
                         f'{-(-(nbytes - left) // MIB)} MB, --base-mb leaves {nbytes // MIB} for '
                         'them: raise it, or leave out the bases')
    chosen = dict.fromkeys(errors, 0)
    queue = [_gain(name, 0, errors, sizes) for name in errors]
    heapq.heapify(queue)
    while queue:
        _, name = heapq.heappop(queue)
        more = chosen[name] + 1
        if more == len(splits) or (cost := sizes[name][more] - sizes[name][more - 1]) > left:
            continue  # another one may be smaller
        left -= cost
        chosen[name] = more
        if more + 1 < len(splits):
            heapq.heappush(queue, _gain(name, more, errors, sizes))
    return {name: splits[number] for name, number in chosen.items()}


def _gain(name: str, at: int, errors: Mapping[str, list[float]],
          sizes: Mapping[str, list[int]]) -> tuple[float, str]:
    if at + 1 == len(errors[name]):
        return 0.0, name
    return -(errors[name][at] - errors[name][at + 1]) / (
        sizes[name][at + 1] - sizes[name][at]), name


def _errors(weights: np.ndarray, splits: Sequence[Split]) -> list[float]:
    """Return the relative squared error of the bases of each split."""
    whole = float(np.square(weights, dtype=np.float64).sum()) or 1.0
    found = []
    for split in splits:
        fine, scales = split.quantise(weights)
        base, _ = split.cut(fine)
        each = np.repeat(scales, split.base.group, axis=1)[:, :weights.shape[1]]
        found.append(float(np.square(base * each - weights, dtype=np.float64).sum()) / whole)
    return found
