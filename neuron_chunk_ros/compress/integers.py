# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a model and a recipe to a folder of integers for hardware.

Unlike bundles, which are written layer by layer, this holds the whole model in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

from neuron_chunk_ros.compress.export import operations as operations_
from neuron_chunk_ros.compress.export.graphs import write_graphs
from neuron_chunk_ros.compress.export.hardware import write_benches
from neuron_chunk_ros.compress.export.memory import write_headers, write_images
from neuron_chunk_ros.compress.integer.model import IntegerModel, convert
from neuron_chunk_ros.compress.recipe import Recipe
from neuron_chunk_ros.errors import ModelError, RequestError
from neuron_chunk_ros.families import prompt_builder
from neuron_chunk_ros.prepare.checkpoint import Checkpoint
from neuron_chunk_ros.prepare.layer_walk import Sample
from neuron_chunk_ros.storage.atomic import AtomicFolder, check_target

_ROOM = 12  # times the weights' bytes in integers: what all exports may take on the disk


@dataclass
class IntegerReport:
    """What was done, for people and programs."""

    recipe: str
    operations: dict[str, int]        # by kind
    accumulator_bits: int             # the most that any sum needs
    in_float: dict[str, int]          # operations done in float, by name
    left: list[str]                   # modules whose parameters are rounded where they are met
    train_differs: float              # integer against training path, largest code of the logits
    logits_error: float               # integer path against the model, relative

    def text(self) -> str:
        """Return it as lines."""
        kinds = ', '.join(f'{count} {kind}' for kind, count in sorted(self.operations.items()))
        floats = ', '.join(f'{name} ({count})' for name, count in self.in_float.items())
        return (f'recipe {self.recipe}: {kinds}\n'
                f'sums need at most {self.accumulator_bits} bits of 32\n'
                f'in float: {floats or "nothing"}\n'
                f'constants rounded where they are met, of: {", ".join(self.left) or "none"}\n'
                f'logits: integer path against training path {self.train_differs:g} codes at '
                f'most, against the model {self.logits_error:.4f} relative')

    def record(self) -> dict:
        """Return it as plain values."""
        return vars(self)


def compress(source: str | os.PathLike, target: str | os.PathLike, recipe: Recipe,
             samples: Iterable[Sample], progress: Callable[[float], None] | None = None
             ) -> tuple[IntegerModel, IntegerReport]:
    """Convert a Hugging Face folder to integers, write them and what the recipe exports.

    :param samples: (prompt, images) each; ranges are learnt from all, the first one's integers
        are the golden vectors.
    :raises RecipeError: see integer.model.convert. ModelError: for a folder that can't be used.
    :raises RequestError: for no sample at all.
    """
    source, target, tell = Path(source), Path(target), progress or (lambda share: None)
    check_target(target, ModelError)
    checkpoint = Checkpoint(source)
    logging.disable_progress_bar()
    model = AutoModelForImageTextToText.from_pretrained(
        source, local_files_only=True, attn_implementation='eager').float().eval()
    inputs = _inputs(model, checkpoint.family.name, source, samples)

    def run(converted: torch.nn.Module) -> list[torch.Tensor]:
        return [converted(**one, use_cache=False).logits for one in inputs]

    integers = convert(model, recipe, run)
    tell(0.5)
    report = _report(integers, model, recipe, inputs[0])
    size = sum(parameter.numel() for parameter in model.parameters())
    with AtomicFolder(target, (_ROOM if recipe.exports else 3) * size) as folder:
        done = operations_.record(integers, lambda converted: converted(
            **inputs[0], use_cache=False))
        for one in done:
            report.operations[one.kind] = report.operations.get(one.kind, 0) + 1
        tell(0.6)
        _export(folder.folder, done, recipe)
        report.in_float = dict(integers.paths.in_float)
        operations_.write(folder.folder, done, integers, recipe, source.resolve().name)
    tell(1.0)
    return integers, report


def _inputs(model, family: str, source: Path, samples: Iterable[Sample]) -> list[dict]:
    prompts = prompt_builder(family, source, model.config)
    found = [prompts.build(prompt, images) for prompt, images in samples]
    if not found:
        raise RequestError('at least one sample is needed: a prompt and an image')
    return found


@torch.no_grad()
def _report(integers: IntegerModel, model: torch.nn.Module, recipe: Recipe,
            inputs: dict) -> IntegerReport:
    want = model(**inputs, use_cache=False).logits
    logits = {}
    before, integers.paths.dtype = integers.paths.dtype, torch.float64
    for path in ('train', 'integer'):
        with integers.on(path) as converted:
            logits[path] = converted(**inputs, use_cache=False).logits
    integers.paths.dtype = before
    got = logits['integer']
    return IntegerReport(
        recipe.name, {}, max(integers.accumulators().values()), {}, integers.left,
        float((got.value - logits['train'].value).abs().max() / got.scale),
        float((got.value - want).norm() / want.norm()))


def _export(folder: Path, done: list, recipe: Recipe) -> None:
    if 'mem' in recipe.exports:
        write_images(folder / 'mem', done, recipe.memory_bits)
    if 'header' in recipe.exports:
        write_headers(folder / 'c', done)
    for kind in ('onnx', 'qonnx'):
        if kind in recipe.exports:
            write_graphs(folder / kind, done, kind)
    if 'verilog' in recipe.exports:
        write_benches(folder / 'verilog', done, recipe.memory_bits)
