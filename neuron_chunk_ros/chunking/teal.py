# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""TEAL's block-wise greedy allocation: which groups of a block can do with fewer rows.

Training-Free Activation Sparsity in LLMs (arXiv 2408.14690), section 4.3, with two changes: a
raise never exceeds `largest` rows' fraction, since in a small matrix one step's worth of
parameters may be all of it, so raises are compared by error per parameter skipped (among equal
raises that is TEAL's comparison); and errors found for other raises stay in use until they look
best, which saves two thirds of the evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

LEVELS = tuple(level / 20 for level in range(19))  # 0, 0.05, ... 0.9
STEP = 0.02        # share of the block's parameters that one raise skips
LARGEST = 0.1      # no raise skips more of a group's rows
CAP = 0.95         # no group skips more of its rows
_END = 1e-9

Sparsities = dict[str, float]


def allocate(parameters: Mapping[str, int], error: Callable[[Sparsities], float],
             levels: Sequence[float] = LEVELS, *, step: float = STEP, largest: float = LARGEST,
             cap: float = CAP, lazy: bool = True,
             raised: Callable[[Sparsities, float], None] | None = None
             ) -> dict[str, list[float]]:
    """Return each group's sparsity at each level of the block's parameter-weighted sparsity.

    Starts with nothing skipped and repeatedly raises the group whose raise adds least to the
    block's squared output error for each parameter skipped. Between two raises one group alone
    changes, so a level between them is met exactly by going part of the way.

    :param parameters: of each group of the block, in the order they are computed.
    :param error: squared L2 error of the block's output with these sparsities.
    :param levels: ascending, below `cap`.
    :param lazy: evaluate again only the raise that looks best; else all after each raise.
    :param raised: called after each raise with the new sparsities and their weighted mean.
    """
    whole = sum(parameters.values())
    share = {name: count / whole for name, count in parameters.items()}
    now = dict.fromkeys(parameters, 0.0)
    table = {name: [] for name in parameters}
    reached, paid = 0.0, 0.0           # weighted mean of `now`, its error
    seen: dict[str, tuple[float, float]] = {}  # raise -> (price per parameter, error after it)
    for level in levels:
        while reached < level - _END:
            fresh = set()
            while True:
                for name in parameters:
                    if name not in seen and now[name] < cap - _END:
                        trial = _raised(now, name, share, step, largest, cap)
                        found = error(trial)
                        skipped = (trial[name] - now[name]) * share[name]
                        seen[name] = ((found - paid) / skipped, found)
                        fresh.add(name)
                best = min(seen, key=lambda name: seen[name][0])
                if best in fresh:
                    break
                del seen[best]
            before, now = now, _raised(now, best, share, step, largest, cap)
            start, paid = reached, seen.pop(best)[1]
            reached = sum(now[name] * share[name] for name in now)
            if not lazy:
                seen.clear()
            if raised is not None:
                raised(now, reached)
        part = 1.0 if level == 0 or reached <= level else (level - start) / (reached - start)
        for name in parameters:
            table[name].append(now[name] if part == 1.0 else
                               before[name] + part * (now[name] - before[name]))
    return table


def _raised(now: Sparsities, name: str, share: Mapping[str, float], step: float, largest: float,
            cap: float) -> Sparsities:
    return {**now, name: min(now[name] + min(step / share[name], largest), cap)}
