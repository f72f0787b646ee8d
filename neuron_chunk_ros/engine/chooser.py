# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows of a group a step reads: importance of its tokens, budgets, policy.

Importance is the mean of |activation| over a step's tokens of one kind (Neuron Chunking, section
3.1). Text and visual tokens choose separately: their activations have little in common, and one
mixed selection costs most of the accuracy. What is read for either serves both.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from neuron_chunk_ros.chunking import make_policy, runs
from neuron_chunk_ros.chunking.budgets import Budgets
from neuron_chunk_ros.chunking.deadline import Pacer
from neuron_chunk_ros.chunking.estimate import Correction
from neuron_chunk_ros.chunking.policies import Optimal
from neuron_chunk_ros.engine.telemetry import StepTelemetry
from neuron_chunk_ros.storage.bundle import Bundle, Group
from neuron_chunk_ros.storage.profile import Profile

_FRONTIER_EVERY = 4  # steps; a frontier costs as much as a selection and changes slowly
_TEXT_SHARE = 0.5    # of a group's time budget, where a step has tokens of both kinds


class Chooser:
    """Chooses for one step after another; keeps what it learns from them."""

    def __init__(self, bundle: Bundle, budgets: Budgets, profile: Profile, block_size: int):
        """`block_size`: bytes that the device's reads are multiples of."""
        self.budgets, self.profile, self._block_size = budgets, profile, block_size
        self._frontier_of = Optimal(profile, block_size)
        self._pacer = Pacer({g.name: self._frontier_of.whole_seconds(g.rows, g.row_bytes)
                             for g in bundle.groups.values()})
        self._corrections: dict[str, Correction] = {}
        self._steps = 0
        self.configure('dense', 0.0, 0.0, 0.0)
        self.begin('prefill', None)

    def configure(self, policy: str, sparsity: float, text_sparsity: float,
                  deadline_ms: float) -> None:
        """Change what is skipped, between two steps; `deadline_ms` 0: the sparsities decide."""
        self.policy, self.sparsity, self.text_sparsity = policy, sparsity, text_sparsity
        self.deadline_ms = deadline_ms
        self._select = make_policy(policy, self.profile, self._block_size)
        # Nothing is ever skipped, so rows can be read before anyone knows the activations.
        self.dense = policy == 'dense' or (
            not deadline_ms and sparsity == 0 and text_sparsity == 0)

    def begin(self, step: str, visual: torch.Tensor | None) -> None:
        """Start a step.

        :param visual: bool [tokens], True at visual tokens; None where there are none.
        """
        self._began = self._last_end = time.perf_counter()
        self._steps += 1
        self._correction = self._corrections.setdefault(step, Correction())
        self._kinds = self._token_kinds(step, visual)
        self._paced = bool(self.deadline_ms) and not self.dense
        if self._paced:
            self._pacer.begin(step, self.deadline_ms / 1e3)
        # One kind of token that wants every row has all of them read; once there, they serve
        # the other kind as well.
        self.everything = self.dense or (not self._paced and any(
            sparsity == 0 for _, _, sparsity in self._kinds))

    def choose(self, group: Group, inputs: torch.Tensor, bill: StepTelemetry) -> np.ndarray:
        """Return the runs to read and enter them in the bill.

        :param inputs: [tokens, rows], in the order in which the rows lie on flash.
        """
        if self.everything:
            chosen, kept = runs.whole(group.rows), 1.0
        else:
            magnitude = inputs.abs().float()
            importance = [_mean(magnitude, tokens) for _, tokens, _ in self._kinds]
            every = importance[0] if len(importance) == 1 else _mean(magnitude, None)
            choices = (self._in_time(group, importance, every, bill) if self._paced
                       else self._by_fraction(group, importance))
            chosen = runs.union(choices, group.rows)
            kept = runs.share(every, chosen)
        foretold = self._select.seconds(chosen, group.row_bytes)
        bill.profile_seconds += foretold
        bill.estimated_seconds += foretold * self._correction.factor
        bill.chunks += len(chosen)
        bill.rows_selected += runs.count(chosen)
        bill.rows_total += group.rows
        bill.importance_kept += group.rows * kept
        bill.contiguity = [a + int(b) for a, b in zip(
            bill.contiguity, runs.contiguity(chosen, len(bill.contiguity)), strict=True)]
        return chosen

    def done(self) -> None:
        """Note that a group has been multiplied."""
        self._last_end = time.perf_counter()

    def end(self, bill: StepTelemetry) -> None:
        """Learn from a step's finished bill."""
        self._correction.observe(bill.profile_seconds, bill.read_seconds)
        if self._paced:
            self._pacer.end(self._last_end - self._began, bill.read_seconds, bill.seconds)

    def _token_kinds(self, step: str, visual: torch.Tensor | None):
        """Return [(kind, tokens of this kind or None for all, sparsity)] for the step."""
        if step == 'decode':
            return [('decode', None, self.sparsity)]
        if step == 'append':
            # The few tokens of text around a frame make do with what is read for it.
            return [('visual', visual, self.sparsity)]
        if visual is None or not bool(visual.any()):
            return [('text', None, self.text_sparsity)]
        if bool(visual.all()):
            return [('visual', None, self.sparsity)]
        return [('text', ~visual, self.text_sparsity), ('visual', visual, self.sparsity)]

    def _by_fraction(self, group: Group, importance: list[np.ndarray]) -> list[np.ndarray]:
        choices = []
        for (kind, _, wanted), mine in zip(self._kinds, importance, strict=True):
            sparsity = self.budgets.sparsity(group.name, kind, wanted)
            choices.append(self._select(mine, round(group.rows * (1 - sparsity)),
                                        group.row_bytes))
        return choices

    def _in_time(self, group: Group, importance: list[np.ndarray], every: np.ndarray,
                 bill: StepTelemetry) -> list[np.ndarray]:
        factor = self._correction.factor
        share = self._pacer.share(
            group.name, time.perf_counter() - self._began, bill.read_seconds) / factor
        if self._steps % _FRONTIER_EVERY <= 1:
            frontier = self._frontier_of.frontier(every, group.row_bytes)
            frontier[:, 0] *= factor
            frontier[:, 1] *= np.mean([self.budgets.worth(group.name, kind)
                                       for kind, _, _ in self._kinds])
            self._pacer.learn(group.name, frontier)
        if len(importance) == 1:
            return [self._select.within(importance[0], share, group.row_bytes)]
        text, visual = importance
        first = self._select.within(text, _TEXT_SHARE * share, group.row_bytes)
        # What is read for the text is there for the visual tokens as well.
        rest = visual.copy()
        rest[runs.indices(first)] = 0
        taken = self._select.seconds(first, group.row_bytes)
        return [first, self._select.within(rest, share - taken, group.row_bytes)]


def _mean(magnitude: torch.Tensor, tokens: torch.Tensor | None) -> np.ndarray:
    mine = magnitude if tokens is None else magnitude[tokens]
    return mine.mean(dim=0).cpu().numpy()
