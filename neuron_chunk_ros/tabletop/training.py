# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Training of the shipped model: seeded, resumable, a little over an hour on two CPU cores.

Three stages. *Sight*: vision tower and projector alone learn what fills each image patch.
*Answers*: everything together, single-view and multi-view prompts in turn, the patch labels kept
as a small second loss. *Places*: the same with a new learning rate, asking mostly what is learnt
last, where things are and whether they moved, with a third loss on the place of each thing a
question names. Each step's data come from (seed, step), so a run
that was stopped goes on with the batches it would have seen.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from neuron_chunk_ros.tabletop.batches import BatchMaker, TrainingBatch
from neuron_chunk_ros.tabletop.checkpoint import build_model, save
from neuron_chunk_ros.tabletop.network import PatchHeads, PlaceHead, answer_logits, vision_features
from neuron_chunk_ros.tabletop.questions import MULTI_VIEW, SINGLE_VIEW, ask, scenes_for
from neuron_chunk_ros.tabletop.resumable import ResumableRun
from neuron_chunk_ros.tabletop.scenes import random_scene

# How often a type is asked once the easy ones are known.
FOCUS = {'colour': 1, 'shape': 1, 'count': 2, 'relation': 5, 'quadrant': 3, 'existence': 1}


@dataclass(frozen=True)
class Recipe:
    """Every number of the training run."""

    seed: int = 1
    sight_steps: int = 1400
    answer_steps: int = 3600
    place_steps: int = 3200
    answer_horizon: int = 6000     # the answers stage's cosine would end here
    sight_batch: int = 64
    single_batch: int = 32
    multi_views: int = 40          # views per multi-view batch
    multi_from: int = 720          # steps of the answers stage without multi-view prompts
    questions: int = 8             # per prompt
    focus_from: int = 2600         # steps of the answers stage with all types alike
    rate: float = 8e-4
    place_rate: float = 6e-4
    place_views: int = 64          # views per multi-view batch in the places stage
    warm_up: int = 200
    patch_weight: float = 0.3
    place_weight: float = 1.0
    save_every: int = 500

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return self.sight_steps + self.answer_steps + self.place_steps

    def stage(self, step: int) -> tuple[str, int]:
        """Return the stage a step belongs to, and its number there."""
        for name, steps in (('sight', self.sight_steps), ('answers', self.answer_steps)):
            if step < steps:
                return name, step
            step -= steps
        return 'places', step


def learning_rate(recipe: Recipe, step: int) -> float:
    """Warm up, then fall along a cosine; each stage has its own."""
    stage, done = recipe.stage(step)
    peak, low, total = {'sight': (recipe.rate, 0.3, recipe.sight_steps),
                        'answers': (recipe.rate, 0.01, recipe.answer_horizon),
                        'places': (recipe.place_rate, 0.01, recipe.place_steps)}[stage]
    if done < recipe.warm_up:
        return peak * (done + 1) / recipe.warm_up
    part = (done - recipe.warm_up) / max(1, total - recipe.warm_up)
    return peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * part)))


def _questions(rng, scenes, kinds, number) -> list:
    found = {}
    for _ in range(number * 4):
        question = ask(scenes, rng, str(kinds[rng.integers(len(kinds))]))
        if question is not None:
            found.setdefault(question.text, question)
        if len(found) == number:
            break
    return list(found.values())


def make_batch(recipe: Recipe, maker: BatchMaker, step: int) -> TrainingBatch:
    """Make the batch of this step."""
    rng = np.random.default_rng([recipe.seed, step])
    stage, done = recipe.stage(step)
    if stage == 'sight':
        return maker([([random_scene(rng)], []) for _ in range(recipe.sight_batch)])
    kind, multi_views = 'single', recipe.multi_views
    if stage == 'places':
        kind, multi_views = str(rng.choice(['single', 'tables', 'moved'], p=[0.55, 0.15, 0.3])), (
            recipe.place_views)
    elif done >= recipe.multi_from and rng.random() < 0.5:
        kind = ('tables', 'moved')[rng.integers(2)]
    views = 1 if kind == 'single' else int(rng.integers(2, 5))
    size = recipe.single_batch if kind == 'single' else multi_views // views
    kinds = {'single': SINGLE_VIEW, 'tables': MULTI_VIEW[:2], 'moved': MULTI_VIEW[2:]}[kind]
    if kind == 'single' and (stage == 'places' or done >= recipe.focus_from):
        kinds = [k for k in SINGLE_VIEW for _ in range(FOCUS[k])]
    prompts = []
    while len(prompts) < size:
        scenes = scenes_for(rng, kinds[0], views)
        questions = _questions(rng, scenes, kinds, recipe.questions)
        if questions:
            prompts.append((scenes, questions))
    return maker(prompts)


class Training(ResumableRun):
    """A run of the shipped model."""

    def __init__(self, folder: Path, recipe: Recipe):
        self.model = build_model(recipe.seed).train()
        self.heads = PatchHeads(self.model.config.text_config.hidden_size)
        self.place = PlaceHead(self.model.config.text_config.hidden_size)
        self.maker = BatchMaker()
        super().__init__(folder, recipe, dict(self.model.named_parameters()) | {
            f'{name}.{k}': v for name, head in (('heads', self.heads), ('place', self.place))
            for k, v in head.named_parameters()})

    def learning_rate(self) -> float:
        """See ResumableRun."""
        return learning_rate(self.recipe, self.step)

    def losses(self) -> tuple[torch.Tensor, dict[str, float]]:
        """See ResumableRun."""
        recipe = self.recipe
        batch = make_batch(recipe, self.maker, self.step)
        with torch.autocast('cpu', torch.bfloat16):
            features = vision_features(self.model, batch.pixels)
            patch = self.heads.loss(features, batch)
            figures = {'patch': patch.item()}
            loss = patch
            if self.step >= recipe.sight_steps:
                logits, labels, middle = answer_logits(self.model, batch, features)
                answer = functional.cross_entropy(logits.float(), labels)
                figures |= {'answer': answer.item(),
                            'right': (logits.argmax(-1) == labels).float().mean().item()}
                loss = answer + recipe.patch_weight * patch
                if recipe.stage(self.step)[0] == 'places' and len(batch.named):
                    place = self.place.loss(middle, batch)
                    figures['place'] = place.item()
                    loss = loss + recipe.place_weight * place
        return loss, figures

    def write(self, folder: Path) -> None:
        """See ResumableRun."""
        save(self.model, folder)
