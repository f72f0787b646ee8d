# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Questions about pictures, ready for a decoder, and which of them a model gets right.

A picture's visual tokens come before any question, so whatever is skipped for them is skipped
for all questions about it alike; asking several in one prompt changes no answer (see
tabletop.packing for the mask that sees to it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from neuron_chunk_ros.tabletop.network import answer_logits
from neuron_chunk_ros.tabletop.packing import PackedPrompts


@dataclass(frozen=True)
class Sheet:
    """A batch of prompts, ready for the decoder."""

    batch: PackedPrompts
    features: torch.Tensor   # of the vision tower, [images, patches, width]
    frames: torch.Tensor     # int64 [B, L]: the frame a visual token belongs to, -1 elsewhere
    first: np.ndarray        # int64 [B]: number of each prompt's first question


def frames_of(ids: torch.Tensor, visual: int, frame_tokens: int) -> torch.Tensor:
    """Return the frame of each token, -1 for text: int64 [B, L], as `ids`."""
    mine = ids == visual
    number = (mine.flatten().cumsum(0) - 1).div(frame_tokens, rounding_mode='floor')
    return number.view_as(ids).masked_fill(~mine, -1)


class Exam:
    """All questions, and how they are scored."""

    def __init__(self, types: Sequence[str], sheets: Sequence[Sheet], kinds: Sequence[int],
                 prompts: Sequence[int], strata: Sequence[int]):
        """Take what was drawn.

        :param types: of questions, by name.
        :param kinds: of each question, its type's number.
        :param prompts: of each question, its prompt's.
        :param strata: of each prompt, which sort of prompts it is.
        """
        self.types, self.sheets = tuple(types), list(sheets)
        self.kinds, self.prompts = np.array(kinds), np.array(prompts)
        self._strata = np.array(strata)

    def __len__(self) -> int:
        """Count the questions."""
        return len(self.kinds)

    @property
    def frames(self) -> int:
        """Camera frames shown."""
        return sum(len(sheet.features) for sheet in self.sheets)

    @torch.inference_mode()
    def right(self, model, entering: Callable[[Sheet], None] = lambda sheet: None,
              progress: Callable[[], None] = lambda: None) -> np.ndarray:
        """Return which questions the model answers exactly right: bool [questions].

        The right words are fed back in: the greedy answer equals the right one exactly if each
        of its words, and its end, is the likeliest at its place.

        :param entering: told each sheet before its pass.
        :param progress: called after it.
        """
        right = np.ones(len(self), bool)
        for sheet in self.sheets:
            entering(sheet)
            logits, labels, _ = answer_logits(model, sheet.batch, sheet.features)
            prompt, token = (sheet.batch.owner >= 0).nonzero(as_tuple=True)
            question = sheet.first[prompt.numpy()] + sheet.batch.owner[prompt, token].numpy()
            right[question[(logits.argmax(-1) != labels).numpy()]] = False
            progress()
        return right

    def by_type(self, right: np.ndarray) -> dict[str, float]:
        """Return the share that is right of each type that was asked."""
        return {name: float(right[self.kinds == number].mean())
                for number, name in enumerate(self.types) if (self.kinds == number).any()}

    def accuracy(self, right: np.ndarray) -> np.ndarray:
        """Return the mean over question types of the share that is right: [..., questions]."""
        return right @ self._weights(np.ones(len(self._strata)))

    def accuracy_replicas(self, right: np.ndarray, rng: np.random.Generator, times: int
                          ) -> np.ndarray:
        """Return accuracies on bootstrap samples of the prompts: [..., times].

        Prompts are drawn, not questions, since those about one scene share its selections.
        """
        replicas = []
        for _ in range(times):
            counts = np.zeros(len(self._strata))
            for stratum in np.unique(self._strata):
                mine = np.flatnonzero(self._strata == stratum)
                counts[mine] = np.bincount(rng.integers(0, len(mine), len(mine)),
                                           minlength=len(mine))
            replicas.append(right @ self._weights(counts))
        return np.stack(replicas, axis=-1)

    def _weights(self, prompts: np.ndarray) -> np.ndarray:
        """Weights of the questions, so that every type that was asked counts the same."""
        weights = prompts[self.prompts]
        totals = np.bincount(self.kinds, weights, minlength=len(self.types))
        shares = np.divide(1, totals, out=np.zeros(len(self.types)), where=totals > 0)
        return weights * shares[self.kinds] / (totals > 0).sum()
