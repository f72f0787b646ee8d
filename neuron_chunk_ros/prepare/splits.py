# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How rows are cut in two: as asked, or each group so that bases err least in their memory."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.storage.layout import GroupPlan
from neuron_chunk_ros.storage.packed_rows import PACKED_FORMATS, REFINEMENTS, Split

MIB = 1 << 20
COARSE_HEAD = Split(PACKED_FORMATS['int4-16'], REFINEMENTS['plus4'])  # the LM head's


def rows_and_base(name: str) -> tuple[str, int | None]:
    """Return what `convert` takes for 'int4', or for 'int8/4', rows in two parts.

    Raises ModelError for what it would not take.
    """
    rows, cut, base = name.partition('/')
    if not cut:
        if rows not in PACKED_FORMATS:
            raise ModelError(f"no packed rows '{rows}': choose from {', '.join(PACKED_FORMATS)}, "
                             'or rows in two parts such as int8/4')
        return rows, None
    if not base.isdigit():
        raise ModelError(f"'{name}' is no split: give rows and the bits of a base, as int8/4")
    split_of(rows, int(base))
    return rows, int(base)


def split_of(rows: str | None, base: int) -> Split:
    """Return how rows of so many bits are cut. Raises ModelError for what isn't."""
    whole = {'int5': 5, 'int6': 6, 'int8': 8}.get(rows)
    coarse = PACKED_FORMATS.get(f'int{base}-16')
    if whole is None or coarse is None or coarse.bits == 8:
        raise ModelError(f'rows {rows!r} with a base of {base} bits: rows are int5, int6 or int8, '
                         'a base has 2, 3 or 4 bits')
    refinement = REFINEMENTS.get(f'plus{whole - base}')
    if refinement is None:
        raise ModelError(f'rows {rows!r} with a base of {base} bits: at least 2 bits have to be '
                         'left for the refinement')
    return Split(coarse, refinement)


def splits_of(rows: str | None) -> list[Split]:
    """Return the ways to cut rows of so many bits, by rising bits of the base."""
    found = []
    for base in (2, 3, 4):
        with contextlib.suppress(ModelError):
            found.append(split_of(rows, base))
    return found or [split_of(rows, 2)]  # which says what there is


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
