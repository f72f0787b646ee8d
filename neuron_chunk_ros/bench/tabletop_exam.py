# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Questions about fresh tabletop scenes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from neuron_chunk_ros.tabletop.batches import FRAME_TOKENS, BatchMaker, TrainingBatch
from neuron_chunk_ros.tabletop.evaluation import CAMERA
from neuron_chunk_ros.tabletop.exam import Exam, Sheet, frames_of
from neuron_chunk_ros.tabletop.network import vision_features
from neuron_chunk_ros.tabletop.questions import MULTI_VIEW, SINGLE_VIEW, ask, scenes_for

TYPES = (*SINGLE_VIEW, *MULTI_VIEW)
# What is asked about one draw of scenes; `moved` needs scenes of its own.
_TOGETHER = (SINGLE_VIEW, MULTI_VIEW[:2], MULTI_VIEW[2:])
_BATCH = 50


def tabletop_exam(model, scenes: int, seed: int, progress: Callable[[], None] = lambda: None
                  ) -> Exam:
    """Draw scenes and questions, always the same for a seed, and run the vision tower over them.

    :param model: the tabletop model; only its vision part is used.
    :param scenes: how many single-view scenes; as many prompts of several views are drawn for
        each of the two sorts of them.
    """
    sheets: list[Sheet] = []
    kinds: list[int] = []     # of each question
    prompts: list[int] = []   # that it belongs to
    strata: list[int] = []    # of each prompt
    maker = BatchMaker(CAMERA)
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
                sheets.append(_sheet(model, maker(part), first))
                progress()
    return Exam(TYPES, sheets, kinds, prompts, strata)


def _sheet(model, batch: TrainingBatch, first: np.ndarray) -> Sheet:
    with torch.inference_mode():
        features = vision_features(model, batch.pixels.to(model.dtype))
    return Sheet(batch, features, frames_of(batch.ids, model.config.video_token_id, FRAME_TOKENS),
                 first)
