# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows of a group a step reads: importance of its tokens, budgets, policy.

Importance is the mean of |activation| over a step's tokens of one kind (Neuron Chunking, section
3.1). Text and visual tokens choose separately: their activations have little in common, and one
mixed selection costs most of the accuracy. What is read for either serves both. A group's head is
in memory, and some rows may have been read ahead: what is there is kept without being chosen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch

from neuron_chunk_ros import _native
from neuron_chunk_ros.chunking import make_policy, runs
from neuron_chunk_ros.chunking.budgets import Budgets
from neuron_chunk_ros.chunking.deadline import Pacer
from neuron_chunk_ros.chunking.estimate import Correction, StepTimes
from neuron_chunk_ros.chunking.policies import Optimal
from neuron_chunk_ros.engine.step import Step
from neuron_chunk_ros.storage.bundle import Bundle, Group
from neuron_chunk_ros.storage.layout import LM_HEAD
from neuron_chunk_ros.storage.profile import Profile

_FRONTIER_EVERY = 4  # steps of a kind; a frontier costs as much as a selection, changes slowly
_TEXT_SHARE = 0.5    # of a group's time budget, where a step has tokens of both kinds
_NATIVE = {torch.bfloat16: 'bfloat16', torch.float16: 'float16', torch.float32: 'float32'}
_NOTHING = np.empty((0, 2), np.int64)


class Chooser:
    """Chooses for one step after another; keeps what it learns from them."""

    def __init__(self, bundle: Bundle, budgets: Budgets, profile: Profile, block_size: int,
                 heads: Mapping[str, int], floor: float = 0.0):
        """Take what is known of model and storage.

        :param block_size: bytes that the device's reads are multiples of.
        :param heads: by group, how many of its first rows are held in memory.
        :param floor: share of a group's importance that is kept whatever the deadline says.
        """
        self.budgets, self.profile, self._block_size = budgets, profile, block_size
        self._heads, self._floor = heads, floor
        self._frontier_of = Optimal(profile, block_size)
        self._pacer = Pacer({g.name: self._frontier_of.whole_seconds(g.rows - heads[g.name],
                                                                     g.row_bytes)
                             for g in bundle.groups.values()})
        table = bundle.lm_head
        self._lm_head_seconds = self._frontier_of.whole_seconds(
            table.rows - heads[LM_HEAD], table.row_bytes) if table else 0.0
        self._corrections: dict[str, Correction] = {}
        self._times = StepTimes()
        self._steps: dict[tuple, int] = {}
        self._weights: torch.Tensor | None = None
        self.configure('dense', 0.0, 0.0, 0.0)

    def configure(self, policy: str, sparsity: float, text_sparsity: float,
                  deadline_ms: float) -> None:
        """Change what is skipped, between two steps; `deadline_ms` 0: the sparsities decide."""
        # First what may fail: names without their policy would be believed.
        self._select = make_policy(policy, self.profile, self._block_size)
        self.policy, self.sparsity, self.text_sparsity = policy, sparsity, text_sparsity
        self.deadline_ms = deadline_ms
        self._way = policy, sparsity, text_sparsity
        self.may_exceed = self._select.falls_back
        # Nothing is ever skipped, so rows can be read before anyone knows the activations.
        self.dense = policy == 'dense' or (
            not deadline_ms and sparsity == 0 and text_sparsity == 0)

    @property
    def habit(self) -> tuple:
        """What steps have in common that choose much alike."""
        return self.kind, self._way

    def begin(self, step: Step) -> None:
        """Start a step."""
        self._began = self._last_end = time.perf_counter()
        self._last_read = 0.0
        kind = self.kind = (step.kind, int(step.tokens).bit_length())
        self._steps[kind] = self._steps.get(kind, 0) + 1
        self._correction = self._corrections.setdefault(step.kind, Correction())
        self._kinds = self._token_kinds(step)
        self._weights = None
        self._floored = False
        self.paced = bool(self.deadline_ms) and not self.dense
        # One kind of token that wants every row has all of them read; once there, they serve
        # the other kind as well.
        self.everything = self.dense or (not self.paced and any(
            sparsity == 0 for _, _, sparsity in self._kinds))
        if self.paced and self._dense_fits(kind, self._after(step)):
            self.everything, self.paced = True, False
        elif not self.everything and self._select.falls_back and (
                self._times.dense_is_faster(kind, self._way)):
            self.everything, self.paced = True, False
        if self.paced:
            self._pacer.begin(kind, self.deadline_ms / 1e3, self._after(step))

    def choose(self, group: Group, inputs: torch.Tensor, step: Step,
               ahead: np.ndarray = _NOTHING) -> tuple[np.ndarray, np.ndarray]:
        """Choose the rows to read of a group's tail and enter them in the bill.

        :param inputs: [tokens, rows], in the order in which the rows lie on flash.
        :param ahead: runs of the tail that have been read already; they will be multiplied.
        :return: the runs to read, and what would have been chosen with nothing there. May be none.
        """
        head, bill = self._heads[group.name], step.bill
        if self.everything or head == group.rows or group.name == LM_HEAD:
            ideal = runs.between(head, group.rows)
            chosen, kept = runs.difference(ideal, ahead), 1.0
        else:
            importance, every = self._importance(inputs)
            if self.paced:
                chosen = ideal = self._in_time(group, head, importance, every, step)
            else:
                chosen, ideal = self._by_fraction(group, head, importance, ahead)
            kept = _kept(every, head, ahead, chosen)
        foretold = self._select.seconds(chosen, group.row_bytes)
        if len(ahead):
            foretold += self._select.seconds(ahead, group.row_bytes)
        bill.profile_seconds += foretold
        bill.estimated_seconds += foretold * self._correction.factor
        if group.name == LM_HEAD:  # nothing is ever chosen there, so it tells of no choice
            return chosen, ideal
        if len(ahead):
            bill.rows_selected += runs.count(ahead)
            bill.rows_ahead += runs.count(ahead)
            bill.rows_ahead_wanted += runs.common(ideal, ahead)
        bill.chunks += len(chosen) + len(ahead)
        bill.rows_selected += head + runs.count(chosen)
        bill.rows_held += head
        bill.rows_total += group.rows
        bill.importance_kept += group.rows * kept
        for found in (chosen, ahead):
            if len(found) == 1:  # as in all steps that want every row
                bill.contiguity = bill.contiguity.copy()
                bill.contiguity[int(found[0, 1]).bit_length() - 1] += 1
            elif len(found):
                bill.contiguity = [a + int(b) for a, b in zip(
                    bill.contiguity, runs.contiguity(found, len(bill.contiguity)), strict=True)]
        return chosen, ideal

    def foretold(self, step: Step) -> float:
        """Return the seconds that this step will take, as far as is known.

        Nothing learnt yet: what the profile says of reading what is to be read.
        """
        known = (self._times.dense(self.kind) if self.everything
                 else self._times.sparse(self.kind, self._way))
        if known is None:
            share = 1.0 if self.everything else 1 - min(wanted for _, _, wanted in self._kinds)
            known = (share * self._pacer.whole_seconds + self._after(step)
                     ) * self._correction.factor
        return min(known, self.deadline_ms / 1e3) if self.paced else known

    def done(self, group: Group, step: Step) -> None:
        """Note that a group has been multiplied; the LM head comes after the last one."""
        if group.name != LM_HEAD:
            self._last_end, self._last_read = time.perf_counter(), step.bill.read_seconds

    def end(self, step: Step) -> None:
        """Learn from a finished step."""
        bill = step.bill
        if bill.coarse:  # it tells nothing of reading
            return
        self._correction.observe(bill.profile_seconds, bill.read_seconds)
        self._times.observe(self.kind, self._way, self.everything, bill.seconds)
        if self.deadline_ms and not self.dense:
            bill.deadline_missed = self._floored or bill.seconds > 1.1 * self.deadline_ms / 1e3
        if self.paced:
            self._pacer.end(self._last_end - self._began, self._last_read, bill.seconds)

    def _after(self, step: Step) -> float:
        """Return the seconds that the LM head takes to read, where it is wanted."""
        return self._lm_head_seconds if step.logits else 0.0

    def _dense_fits(self, kind: tuple, after: float) -> bool:
        """Whether a step that reads everything keeps the deadline, as far as is known."""
        known = self._times.dense(kind)
        if known is None:  # nothing learnt yet: what the profile says of reading alone
            known = (self._pacer.whole_seconds + after) * self._correction.factor
        return known <= self.deadline_ms / 1e3

    def _token_kinds(self, step: Step):
        """Return [(kind, tokens of this kind or None for all, sparsity)] for the step."""
        visual = step.visual
        if step.kind in ('decode', 'draft'):
            return [('decode', None, self.sparsity)]
        if step.kind == 'append':
            # The few tokens of text around a frame make do with what is read for it.
            return [('visual', visual, self.sparsity)]
        seen = 0 if visual is None else int(visual.sum())
        if not seen:
            return [('text', None, self.text_sparsity)]
        if seen == len(visual):
            return [('visual', None, self.sparsity)]
        return [('text', ~visual, self.text_sparsity), ('visual', visual, self.sparsity)]

    def _importance(self, inputs: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean magnitudes of each kind, float32 [kinds, rows], and of all, [rows]."""
        tokens = len(inputs)
        if self._weights is None or self._weights.shape[1] != tokens:
            weights = torch.zeros(len(self._kinds), tokens, device=inputs.device)
            for row, (_, mine, _) in zip(weights, self._kinds, strict=True):
                row[slice(None) if mine is None else mine] = 1.0
            counts = weights.sum(dim=1)
            self._weights = weights / counts.clamp(min=1)[:, None]
            self._shares = (counts / counts.sum().clamp(min=1)).cpu().numpy()
        if inputs.device.type != 'cpu' or inputs.dtype not in _NATIVE:
            found = (self._weights @ inputs.abs().float()).cpu().numpy()
        else:
            if inputs.stride(1) != 1:
                inputs = inputs.contiguous()
            found = np.empty((len(self._weights), inputs.shape[1]), np.float32)
            _native.magnitudes(inputs.data_ptr(), _NATIVE[inputs.dtype],
                               inputs.stride(0) * inputs.dtype.itemsize, self._weights.numpy(),
                               found, torch.get_num_threads())
        return found, found[0] if len(found) == 1 else self._shares @ found

    def _by_fraction(self, group: Group, head: int, importance: np.ndarray,
                     ahead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        choices, ideals = [], []
        for (kind, _, wanted), mine in zip(self._kinds, importance, strict=True):
            sparsity = self.budgets.sparsity(group.name, kind, wanted)
            rows = round(group.rows * (1 - sparsity))
            chosen = self._select(mine, rows, group.row_bytes)
            ideals.append(chosen)
            if head or len(ahead):
                # With what is there at least what would be kept without, and no row more.
                chosen = self._rest(mine, head, runs.share(mine, chosen), group.row_bytes, ahead)
            choices.append(chosen)
        chosen = _union(choices, group.rows)
        return runs.difference(chosen, ahead), runs.behind(_union(ideals, group.rows), head)

    def _rest(self, importance: np.ndarray, head: int, share: float, row_bytes: int,
              ahead: np.ndarray = _NOTHING) -> np.ndarray:
        """Return the runs of the tail that keep, with what is there, this share of importance."""
        if len(ahead) == 1 and ahead[0, 0] == head:
            head, ahead = head + int(ahead[0, 1]), _NOTHING
        rest = runs.without(importance, ahead) if len(ahead) else importance
        tail = np.ascontiguousarray(rest[head:])
        total = float(importance.sum(dtype=np.float64))
        left = float(tail.sum(dtype=np.float64))
        wanted = share * total - (total - left)
        if total <= 0 or wanted <= 1e-6 * total:
            return _NOTHING
        return _shifted(self._select.keeping(tail, min(wanted, left), row_bytes), head)

    def _in_time(self, group: Group, head: int, importance: np.ndarray, every: np.ndarray,
                 step: Step) -> np.ndarray:
        factor = self._correction.factor
        share = self._pacer.share(group.name, time.perf_counter() - self._began,
                                  step.bill.read_seconds) / factor
        tails = [np.ascontiguousarray(mine[head:]) for mine in importance]
        if self._steps[self.kind] % _FRONTIER_EVERY <= 1:
            frontier = self._frontier_of.frontier(np.ascontiguousarray(every[head:]),
                                                  group.row_bytes)
            frontier[:, 0] *= factor
            frontier[:, 1] *= np.mean([self.budgets.worth(group.name, kind)
                                       for kind, _, _ in self._kinds])
            self._pacer.learn(group.name, frontier)
        first = self._select.within(tails[0], share if len(tails) == 1 else _TEXT_SHARE * share,
                                    group.row_bytes)
        choices = [_shifted(first, head)]
        if len(tails) == 2:
            # What is read for the text is there for the visual tokens as well.
            rest = tails[1].copy()
            rest[runs.indices(first)] = 0
            taken = self._select.seconds(first, group.row_bytes)
            choices.append(_shifted(self._select.within(rest, share - taken, group.row_bytes),
                                    head))
        if self._floor:
            for number, mine in enumerate(importance):
                if _kept(mine, head, _union(choices, group.rows)) < self._floor:
                    choices[number] = self._rest(mine, head, self._floor, group.row_bytes)
                    self._floored = True
        return _union(choices, group.rows)


def _shifted(chosen: np.ndarray, rows: int) -> np.ndarray:
    if rows:
        chosen = chosen + np.array([rows, 0], np.int64)
    return chosen


def _union(choices: list[np.ndarray], rows: int) -> np.ndarray:
    choices = [choice for choice in choices if len(choice)]
    return runs.union(choices, rows) if choices else _NOTHING


def _kept(importance: np.ndarray, head: int, *others: np.ndarray) -> float:
    """Return the share of the importance in the head and in runs behind it that share no row."""
    every = [np.array([[0, head]], np.int64)] if head else []
    every += [found for found in others if len(found)]
    return runs.share(importance, np.concatenate(every)) if every else 0.0
