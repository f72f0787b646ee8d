# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""easy-VQA's test questions as an exam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.published.easy_vqa import COLOURS, SHAPES, Picture
from neuron_chunk_ros.published.packing import Packer
from neuron_chunk_ros.tabletop.exam import Exam, Sheet, frames_of
from neuron_chunk_ros.tabletop.network import vision_features

TYPES = ('colour', 'shape', 'presence', 'absence')
_BATCH = 25


def type_of(question: str, answer: str) -> str:
    """Return which of TYPES a question is."""
    if answer in COLOURS:
        return 'colour'
    if answer in SHAPES:
        return 'shape'
    return 'absence' if ' not ' in question or ' no ' in question else 'presence'


def easy_vqa_exam(model, folder: Path, shown: Sequence[Picture], questions: int, seed: int,
                  progress: Callable[[], None] = lambda: None) -> Exam:
    """Draw some questions, the same number about each picture, and run the vision tower.

    :param model: a LLaVA-OneVision; only its vision part is used.
    :param folder: the model's, for its tokenizer and template.
    :param questions: in all; fewer where the pictures have fewer.
    """
    packer = Packer(folder, model.config)
    rng = np.random.default_rng(seed)
    drawn, left = [], questions
    for number, at in enumerate(rng.permutation(len(shown))):
        picture = shown[at]
        each = -(-left // (len(shown) - number))
        order = rng.permutation(len(picture.questions))[:min(each, left)]
        if len(order):
            drawn.append((picture.pixels, [picture.questions[k] for k in order]))
            left -= len(order)
    kinds, prompts, sheets = [], [], []
    for start in range(0, len(drawn), _BATCH):
        part = drawn[start:start + _BATCH]
        first = len(kinds) + np.cumsum([0] + [len(asked) for _, asked in part[:-1]])
        for number, (_, asked) in enumerate(part):
            kinds += [TYPES.index(type_of(*one)) for one in asked]
            prompts += [start + number] * len(asked)
        batch = packer(part)
        with torch.inference_mode():
            features = vision_features(model, batch.pixels.to(model.dtype))
        visual = model.config.video_token_id
        tokens = int((batch.ids[0] == visual).sum())
        sheets.append(Sheet(batch, features, frames_of(batch.ids, visual, tokens), first))
        progress()
    return Exam(TYPES, sheets, kinds, prompts, [0] * len(drawn))


def grey_features(model) -> torch.Tensor:
    """Return what the tower makes of a grey picture: [1, patches, width]."""
    size = model.config.vision_config.image_size
    return vision_features(model, torch.zeros(1, 1, 3, size, size, dtype=model.dtype))


def load(folder: Path):
    """Return a folder's model, bfloat16. Raises ModelError where there is none."""
    from transformers import AutoModelForImageTextToText
    if not (folder / 'config.json').is_file():
        raise ModelError(f'{folder}: no model there (config.json is missing); give the folder '
                         'that training wrote, RUN_DIR/model')
    return AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation='eager', local_files_only=True).eval()
