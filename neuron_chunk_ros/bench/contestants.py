# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Who is compared with whom: a policy, and the reader that reads what it chooses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neuron_chunk_ros.bench.shapes import Input
from neuron_chunk_ros.bench.timing import OTHER_PAGES
from neuron_chunk_ros.chunking import POLICIES, make_policy, runs
from neuron_chunk_ros.chunking.policies import Policy
from neuron_chunk_ros.storage.profile import Profile


@dataclass(frozen=True)
class Contender:
    """A policy and a reader (of timing.READERS)."""

    policy: str
    reader: str

    @property
    def label(self) -> str:
        """How tables call it."""
        whose = {'paper': "the paper's reader", 'ours': 'our reader'}
        return f'{self.policy}, {whose.get(self.reader, self.reader)}'


BASELINE = Contender('topk', 'paper')
DENSE = Contender('dense', 'ours')
OURS = Contender('optimal', 'ours')
GREEDY = Contender('greedy', 'ours')
CONTENDERS = (Contender('dense', 'paper'), DENSE, BASELINE, Contender('topk', 'ours'),
              Contender('greedy', 'paper'), GREEDY, OURS)
# The same reads into other memory.
PAGES = tuple(Contender(policy, reader) for policy in ('dense', 'topk')
              for reader in ('paper', *OTHER_PAGES, 'ours'))


def policies(profile: Profile, block_size: int) -> dict[str, Policy]:
    """Return the policies under a profile, by name.

    'greedy' is the paper's Algorithm 1 as it stands: it never falls back to reading everything,
    as the engine's does.
    """
    made = {name: make_policy(name, profile, block_size) for name in POLICIES}
    made['greedy'].falls_back = False
    return made


class EqualImportance:
    """Chooses what to read for one input so that all policies keep the same importance."""

    def __init__(self, profile: Profile, block_size: int):
        """`block_size`: bytes that the device's reads are multiples of."""
        self._policies = policies(profile, block_size)

    def choose(self, policy: str, part: Input, importance: np.ndarray, sparsity: float
               ) -> list[np.ndarray]:
        """Return runs for each of the input's matrices.

        top-k skips this share of the rows; what it keeps is what the others must keep.

        :param importance: float32 [rows].
        """
        topk = self._policies['topk'](importance, max(1, round(part.rows * (1 - sparsity))), 1)
        if policy == 'topk' or sparsity == 0:
            return [topk] * len(part.matrices)
        if policy == 'dense':
            return [runs.whole(part.rows)] * len(part.matrices)
        kept = float(importance[runs.indices(topk)].sum(dtype=np.float64))
        return [self._policies[policy].keeping(importance, kept, matrix.row_bytes)
                for matrix in part.matrices]

    def seconds(self, part: Input, chosen: list[np.ndarray]) -> float:
        """Return what reading these runs takes by the profile: one batch for the input."""
        policy = self._policies['dense']
        each = [policy.seconds(found, matrix.row_bytes)
                for matrix, found in zip(part.matrices, chosen, strict=True)]
        # Matrices of one input are read in one batch, which starts once.
        return sum(each) - (len(each) - 1) * policy.profile.batch_seconds
