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

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.tabletop.batches import BatchMaker, TrainingBatch
from neuron_chunk_ros.tabletop.checkpoint import build_model, save
from neuron_chunk_ros.tabletop.network import PatchHeads, PlaceHead, answer_logits, vision_features
from neuron_chunk_ros.tabletop.questions import MULTI_VIEW, SINGLE_VIEW, ask, scenes_for
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


class Training:
    """One run, whose state lives in `folder` between calls."""

    def __init__(self, folder: Path, recipe: Recipe):
        self.folder, self.recipe, self.step = folder, recipe, 0
        self.model = build_model(recipe.seed)
        self.heads = PatchHeads(self.model.config.text_config.hidden_size)
        self.place = PlaceHead(self.model.config.text_config.hidden_size)
        self.maker = BatchMaker()
        self.parameters = dict(self.model.named_parameters()) | {
            f'{name}.{k}': v for name, head in (('heads', self.heads), ('place', self.place))
            for k, v in head.named_parameters()}
        decay = [p for p in self.parameters.values() if p.dim() > 1]
        rest = [p for p in self.parameters.values() if p.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [{'params': decay, 'weight_decay': 0.05}, {'params': rest, 'weight_decay': 0.0}],
            lr=recipe.rate, betas=(0.9, 0.98), fused=True)
        if (folder / 'state.json').exists():
            self._load()

    def train_step(self) -> dict[str, float]:
        """Take one step; return its losses."""
        recipe = self.recipe
        batch = make_batch(recipe, self.maker, self.step)
        for group in self.optimizer.param_groups:
            group['lr'] = learning_rate(recipe, self.step)
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
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return figures

    def run(self, report: Callable[[int, dict], None],
            stop: Callable[[], bool] = lambda: False) -> bool:
        """Train to the end, saving as it goes; False where `stop` ended it before."""
        self.model.train()
        while self.step < self.recipe.steps:
            report(self.step, self.train_step())
            stopped = stop()
            done = self.step == self.recipe.steps
            if stopped or done or self.step % self.recipe.save_every == 0:
                self.save_state()
            if stopped and not done:
                return False
        return True

    def save_state(self) -> None:
        """Save everything a later run needs; a stop at any moment leaves the last one whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f'value.{k}': v.detach() for k, v in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f'{key}.{name}'] = value
        tensors = {k: v.contiguous().clone() for k, v in tensors.items()}
        name = f'state-{self.step}.safetensors'
        save_file(tensors, self.folder / name)
        note = {'step': self.step, 'file': name, 'recipe': vars(self.recipe),
                'saved': time.strftime('%Y-%m-%d %H:%M:%S')}
        temporary = self.folder / 'state.json.part'
        temporary.write_text(json.dumps(note, indent=2))
        temporary.replace(self.folder / 'state.json')
        for old in self.folder.glob('state-*.safetensors'):
            if old.name != name:
                old.unlink()

    def _load(self) -> None:
        note = json.loads((self.folder / 'state.json').read_text())
        if note['recipe'] != vars(self.recipe):
            raise ModelError(f'{self.folder} holds a run with another recipe: choose a new folder '
                             'or the same numbers')
        tensors = load_file(self.folder / note['file'])
        self.step = note['step']
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f'value.{name}'])
        for name, parameter in self.parameters.items():
            if f'exp_avg.{name}' in tensors:
                self.optimizer.state[parameter] = {
                    k: tensors[f'{k}.{name}'] for k in ('step', 'exp_avg', 'exp_avg_sq')}

    def export(self, folder: Path) -> None:
        """Write the Hugging Face folder."""
        save(self.model, folder)
