# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Many questions about the same pictures in one sequence, none of which sees another.

A sequence is `prefix | question answer | question answer | ...`. The mask lets every question
attend to the prefix and to itself alone and positions restart after the prefix, so each is
answered exactly as if it were the first one about its images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

IGNORE = -100
PREFIX, PADDING = -1, -2  # whose a token is where it isn't a question's


@dataclass
class PackedPrompts:
    """B prompts of L tokens."""

    ids: torch.Tensor          # [B, L] int64
    positions: torch.Tensor    # [B, L] int64
    mask: torch.Tensor         # [B, 1, L, L] bool, True where a token may look
    labels: torch.Tensor       # [B, L] int64, IGNORE outside answers; already shifted
    owner: torch.Tensor        # [B, L] int64, which question a label belongs to, -1 none
    segment: torch.Tensor      # [B, L] int64, the question a token belongs to, or see above


# Token numbers of (what is asked, its answer up to the end token).
Turn = tuple[list[int], list[int]]


def pack(prompts: Sequence[tuple[list[int], Sequence[Turn]]], pad: int) -> PackedPrompts:
    """Lay prompts out, each (token numbers ahead of the questions, the questions)."""
    rows = [_row(prefix, turns) for prefix, turns in prompts]
    length = max(len(row[0]) for row in rows)

    def stack(column: int, fill: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([
            np.pad(np.asarray(row[column], np.int64), (0, length - len(row[column])),
                   constant_values=fill) for row in rows]))

    segment = stack(2, PADDING)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = segment[:, :, None] == segment[:, None, :]
    mask = (same | (segment == PREFIX)[:, None, :]) & causal
    return PackedPrompts(stack(0, pad), stack(1, 0), mask[:, None], stack(3, IGNORE),
                         stack(4, -1), segment)


def _row(prefix: list[int], turns: Sequence[Turn]):
    """Return ids, positions, segment, labels, owner."""
    start = len(prefix)
    ids, positions = list(prefix), list(range(start))
    segment, labels, owner = [PREFIX] * start, [IGNORE] * start, [-1] * start
    for number, (asked, answer) in enumerate(turns):
        block = asked + answer[:-1]
        ids += block
        positions += range(start, start + len(block))
        segment += [number] * len(block)
        labels += [IGNORE] * (len(asked) - 1) + answer
        owner += [-1] * (len(asked) - 1) + [number] * len(answer)
    return ids, positions, segment, labels, owner
