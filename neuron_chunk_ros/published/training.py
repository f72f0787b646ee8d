# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Training of a vision tower on easy-VQA, through a decoder that others trained.

Three stages. *Sight*: tower and projector alone name the colour and shape in each patch. *Frozen*:
they learn what the decoder understands. *Low rank*: the decoder gives a little, too, by updates
that are merged at the end. Each step's data come from (seed, step), so a run that was stopped
goes on with the batches it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from neuron_chunk_ros.published.easy_vqa import COLOURS, SHAPES, Picture
from neuron_chunk_ros.published.network import PATCH, LowRank, PatchHeads, build_model, save
from neuron_chunk_ros.published.packing import Packer
from neuron_chunk_ros.tabletop.network import answer_logits, vision_features
from neuron_chunk_ros.tabletop.resumable import ResumableRun


@dataclass(frozen=True)
class Recipe:
    """Every number of the training run."""

    seed: int = 1
    sight_steps: int = 250
    frozen_steps: int = 180
    low_rank_steps: int = 480
    sight_batch: int = 64
    pictures: int = 12             # of a batch of the other stages
    questions: int = 5             # about each
    rank: int = 16
    rate: float = 1e-3
    low_rank_rate: float = 6e-4
    warm_up: int = 30
    sight_weight: float = 0.2      # of the pictures' own labels once questions are asked
    save_every: int = 50

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return self.sight_steps + self.frozen_steps + self.low_rank_steps

    def stage(self, step: int) -> tuple[str, int, int]:
        """Return the stage a step belongs to, its number there, and the stage's steps."""
        for name, steps in (('sight', self.sight_steps), ('frozen', self.frozen_steps)):
            if step < steps:
                return name, step, steps
            step -= steps
        return 'low rank', step, self.low_rank_steps


class Training(ResumableRun):
    """A run of a tower through a published decoder."""

    def __init__(self, folder: Path, recipe: Recipe, decoder: Path, shown: Sequence[Picture]):
        """`decoder`: its Hugging Face folder; `shown`: what to train on."""
        self._decoder, self._shown = decoder, shown
        self.model = build_model(decoder, recipe.rank, recipe.seed).train()
        self.heads = PatchHeads(self.model.config.text_config.hidden_size)
        config = self.model.config
        self._packer = Packer(decoder, config)
        self._labels = np.array([[_patch_labels(one, words) for words in (COLOURS, SHAPES)]
                                 for one in shown])  # [pictures, 2, side, side]
        self._updates = [parameter for layer in self.model.modules()
                         if isinstance(layer, LowRank) for parameter in (layer.up, layer.down)]
        super().__init__(folder, recipe, {
            name: parameter for name, parameter in (
                *self.model.named_parameters(),
                *((f'heads.{k}', v) for k, v in self.heads.named_parameters()))
            if parameter.requires_grad})

    def learning_rate(self) -> float:
        """See ResumableRun: warms up, then falls along a cosine, in each stage."""
        recipe = self.recipe
        stage, done, steps = recipe.stage(self.step)
        peak = recipe.low_rank_rate if stage == 'low rank' else recipe.rate
        if done < recipe.warm_up:
            return peak * (done + 1) / recipe.warm_up
        part = (done - recipe.warm_up) / max(1, steps - recipe.warm_up)
        return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))

    def losses(self) -> tuple[torch.Tensor, dict[str, float]]:
        """See ResumableRun."""
        recipe = self.recipe
        stage, _, _ = recipe.stage(self.step)
        rng = np.random.default_rng([recipe.seed, self.step])
        sight = stage == 'sight'
        for parameter in self._updates:
            parameter.requires_grad_(stage == 'low rank')
        which = rng.integers(len(self._shown), size=recipe.sight_batch if sight
                             else recipe.pictures)
        mirrored = rng.random(len(which)) < 0.5
        batch = self._packer([self._seen(number, flip, rng, 0 if sight else recipe.questions)
                              for number, flip in zip(which, mirrored, strict=True)])
        seen = self._labels[which]
        seen[mirrored] = seen[mirrored][..., ::-1]
        colours, shapes = torch.from_numpy(seen).flatten(2).unbind(1)
        with torch.autocast('cpu', torch.bfloat16):
            features = vision_features(self.model, batch.pixels)
            loss = named = self.heads.loss(features, colours, shapes)
            figures = {'named': named.item()}
            if not sight:
                logits, labels, _ = answer_logits(self.model, batch, features)
                answer = functional.cross_entropy(logits.float(), labels)
                figures |= {'answer': answer.item(),
                            'right': (logits.argmax(-1) == labels).float().mean().item()}
                loss = answer + recipe.sight_weight * named
        return loss, figures

    def _seen(self, number: int, mirrored: bool, rng: np.random.Generator, questions: int):
        """Return a picture and some of its questions."""
        picture = self._shown[number]
        pixels = picture.pixels[:, ::-1] if mirrored else picture.pixels
        order = rng.permutation(len(picture.questions))[:questions]
        return np.ascontiguousarray(pixels), [picture.questions[k] for k in order]

    def write(self, folder: Path) -> None:
        """See ResumableRun."""
        save(self.model, self._decoder, folder)


def _patch_labels(picture: Picture, words: Sequence[str]) -> np.ndarray:
    """Return 0 for the ground, else 1 + which of `words` is there, -1 unknown: [side, side]."""
    named = picture.named(words)
    return np.where(picture.patches(PATCH), named + 1 if named >= 0 else -1, 0)
