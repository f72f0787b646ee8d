# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A training run that goes on where an earlier one was stopped."""

import contextlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.storage.atomic import AtomicFolder, replace_file


class ResumableRun(ABC):
    """One run, whose state lives in `folder` between calls."""

    def __init__(self, folder: Path, recipe, parameters: dict[str, torch.nn.Parameter]):
        """Take up the run that `folder` holds, if any.

        :param recipe: a dataclass of every number of the run, with `steps`, `rate` and
            `save_every` among them.
        :param parameters: all that is trained at any time, by name.
        :raises ModelError: where the folder holds a run with another recipe.
        """
        self.folder, self.recipe, self.step, self.parameters = folder, recipe, 0, parameters
        decay = [p for p in parameters.values() if p.dim() > 1]
        rest = [p for p in parameters.values() if p.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [{'params': decay, 'weight_decay': 0.05}, {'params': rest, 'weight_decay': 0.0}],
            lr=recipe.rate, betas=(0.9, 0.98), fused=True)
        if (folder / 'state.json').exists():
            self._load()

    @abstractmethod
    def losses(self) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the loss of step number `self.step`, and what to show of it."""

    @abstractmethod
    def learning_rate(self) -> float:
        """Return that of step number `self.step`."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write the model's files into an empty folder."""

    def export(self, folder: Path) -> None:
        """Write the Hugging Face folder, whole or not at all; one that is there is replaced.

        :raises ModelError: where it can't be written.
        """
        with AtomicFolder(folder, error=ModelError, replace=True) as made:
            self.write(made.folder)

    def train_step(self) -> dict[str, float]:
        """Take one step; return its losses."""
        for group in self.optimizer.param_groups:
            group['lr'] = self.learning_rate()
        loss, figures = self.losses()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return figures

    def run(self, report: Callable[[int, dict], None],
            stop: Callable[[], bool] = lambda: False) -> bool:
        """Train to the end, saving as it goes; False where `stop` ended it before."""
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
        replace_file(self.folder / name, [save(tensors)])
        note = {'step': self.step, 'file': name, 'recipe': vars(self.recipe),
                'saved': time.strftime('%Y-%m-%d %H:%M:%S')}
        replace_file(self.folder / 'state.json', [json.dumps(note, indent=2).encode()])
        self._remove_others(name)

    def _remove_others(self, name: str) -> None:
        for old in self.folder.glob('state-*.safetensors'):
            if old.name != name:
                with contextlib.suppress(OSError):  # what is needed has been saved
                    old.unlink()

    def _load(self) -> None:
        state = self.folder / 'state.json'
        try:
            note = json.loads(state.read_text())
            self.step, saved = int(note['step']), self.folder / note['file']
            recipe, tensors = note['recipe'], load_file(saved)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelError(f'{state}: not the state of a run ({error}): remove it, or choose a '
                             'new folder') from error
        if recipe != vars(self.recipe):
            raise ModelError(f'{self.folder} holds a run with another recipe: choose a new folder '
                             'or the same numbers')
        self._remove_others(note['file'])  # which a run that was killed in between left
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f'value.{name}'])
        for name, parameter in self.parameters.items():
            if f'exp_avg.{name}' in tensors:
                self.optimizer.state[parameter] = {
                    k: tensors[f'{k}.{name}'] for k in ('step', 'exp_avg', 'exp_avg_sq')}
