# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Questions about fresh tabletop scenes, and which of them a model gets right.

A camera frame's visual tokens come before any question, so whatever is skipped for them is
skipped for all questions about the frame alike; asking several in one prompt changes no answer
(see tabletop.batches for the mask that sees to it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from neuron_chunk_ros.tabletop.batches import FRAME_TOKENS, BatchMaker, TrainingBatch
from neuron_chunk_ros.tabletop.evaluation import CAMERA
from neuron_chunk_ros.tabletop.network import answer_logits, vision_features
from neuron_chunk_ros.tabletop.questions import MULTI_VIEW, SINGLE_VIEW, ask, scenes_for

TYPES = (*SINGLE_VIEW, *MULTI_VIEW)
# What is asked about one draw of scenes; `moved` needs scenes of its own.
_TOGETHER = (SINGLE_VIEW, MULTI_VIEW[:2], MULTI_VIEW[2:])
_BATCH = 50


@dataclass(frozen=True)
class Sheet:
    """A batch of prompts, ready for the decoder."""

    batch: TrainingBatch
    features: torch.Tensor   # of the vision tower, [images, patches, width]
    frames: torch.Tensor     # int64 [B, L]: the frame a visual token belongs to, -1 elsewhere
    first: np.ndarray        # int64 [B]: number of each prompt's first question


class Exam:
    """All questions, always the same for a seed."""

    def __init__(self, model, scenes: int, seed: int,
                 progress: Callable[[], None] = lambda: None):
        """Draw scenes and questions and run the vision tower over them.

        :param model: the tabletop model; only its vision part is used.
        :param scenes: how many single-view scenes; as many prompts of several views are drawn
            for each of the two sorts of them.
        """
        self.sheets: list[Sheet] = []
        kinds: list[int] = []     # of each question
        prompts: list[int] = []   # that it belongs to
        strata: list[int] = []    # of each prompt
        maker = BatchMaker(CAMERA)
        visual = model.config.video_token_id
        for stratum, together in enumerate(_TOGETHER):
            rng = np.random.default_rng([seed, stratum])
            by_views: dict[int, list] = {}
            for _ in range(scenes):
                shown = scenes_for(rng, together[0])
                asked = [q for q in (ask(shown, rng, kind) for kind in together) if q]
                if asked:
                    by_views.setdefault(len(shown), []).append((shown, asked))
            for drawn in by_views.values():
                for start in range(0, len(drawn), _BATCH):
                    part = drawn[start:start + _BATCH]
                    first = len(kinds) + np.cumsum([0] + [len(asked) for _, asked in part[:-1]])
                    for _, asked in part:
                        kinds += [TYPES.index(question.type) for question in asked]
                        prompts += [len(strata)] * len(asked)
                        strata.append(stratum)
                    self.sheets.append(_sheet(model, maker(part), visual, first))
                    progress()
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
    def right(self, model, entering: Callable[[torch.Tensor], None] = lambda frames: None
              ) -> np.ndarray:
        """Return which questions the model answers exactly right: bool [questions].

        Scored as tabletop.evaluation does it, with the right words fed back in.

        :param entering: told each sheet's `frames` before its pass.
        """
        right = np.ones(len(self), bool)
        for sheet in self.sheets:
            entering(sheet.frames)
            logits, labels, _ = answer_logits(model, sheet.batch, sheet.features)
            prompt, token = (sheet.batch.owner >= 0).nonzero(as_tuple=True)
            question = sheet.first[prompt.numpy()] + sheet.batch.owner[prompt, token].numpy()
            right[question[(logits.argmax(-1) != labels).numpy()]] = False
        return right

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
            for stratum in range(len(_TOGETHER)):
                mine = np.flatnonzero(self._strata == stratum)
                counts[mine] = np.bincount(rng.integers(0, len(mine), len(mine)),
                                           minlength=len(mine)) if len(mine) else 0
            replicas.append(right @ self._weights(counts))
        return np.stack(replicas, axis=-1)

    def _weights(self, prompts: np.ndarray) -> np.ndarray:
        """Weights of the questions, so that every type that was asked counts the same."""
        weights = prompts[self.prompts]
        totals = np.bincount(self.kinds, weights, minlength=len(TYPES))
        shares = np.divide(1, totals, out=np.zeros(len(TYPES)), where=totals > 0)
        return weights * shares[self.kinds] / (totals > 0).sum()


def _sheet(model, batch: TrainingBatch, visual: int, first: np.ndarray) -> Sheet:
    with torch.inference_mode():
        features = vision_features(model, batch.pixels.to(model.dtype))
    mine = batch.ids == visual
    number = (mine.flatten().cumsum(0) - 1).div(FRAME_TOKENS, rounding_mode='floor')
    return Sheet(batch, features, number.view_as(batch.ids).masked_fill(~mine, -1), first)
