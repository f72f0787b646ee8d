# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a model and a recipe to a folder of integers for hardware.

Unlike bundles, which are written layer by layer, this holds the whole model in memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

from neuron_chunk_ros.compress.exam import MOST_TOKENS, Ask, Exam
from neuron_chunk_ros.compress.export import operations as operations_
from neuron_chunk_ros.compress.export.graphs import write_graphs
from neuron_chunk_ros.compress.export.hardware import write_benches
from neuron_chunk_ros.compress.export.memory import write_headers, write_images
from neuron_chunk_ros.compress.integer.layers import DualProduct
from neuron_chunk_ros.compress.integer.model import IntegerModel, convert
from neuron_chunk_ros.compress.recipe import Recipe
from neuron_chunk_ros.compress.report import IntegerReport
from neuron_chunk_ros.errors import ModelError, RequestError
from neuron_chunk_ros.families import PromptBuilder, prompt_builder, settings_of
from neuron_chunk_ros.prepare.checkpoint import Checkpoint
from neuron_chunk_ros.prepare.finite import check_checkpoint
from neuron_chunk_ros.prepare.layer_walk import Sample
from neuron_chunk_ros.storage.atomic import AtomicFolder, check_target
from neuron_chunk_ros.storage.side_files import SideFiles

_ROOM = 12  # times the weights' bytes in integers: what all exports may take on the disk


def compress(source: str | os.PathLike, target: str | os.PathLike, recipe: Recipe,
             samples: Iterable[Sample], exam: Exam | None = None,
             progress: Callable[[float], None] | None = None
             ) -> tuple[IntegerModel, IntegerReport]:
    """Convert a Hugging Face folder to integers, write them and what the recipe exports.

    :param samples: (prompt, images) each; ranges are learnt from all, the first one's integers
        are the golden vectors.
    :param exam: asked of the model and of its integers, for the report.
    :raises RecipeError: see integer.model.convert. ModelError: for a folder that can't be used.
    :raises RequestError: for no sample at all.
    """
    source, target, tell = Path(source), Path(target), progress or (lambda share: None)
    check_target(target, ModelError)
    checkpoint = Checkpoint(source)
    check_checkpoint(checkpoint)
    logging.disable_progress_bar()
    model = AutoModelForImageTextToText.from_pretrained(
        source, local_files_only=True, attn_implementation='eager').eval()
    item_bytes = next(model.parameters()).element_size()
    model = model.float()
    prompts = prompt_builder(checkpoint.family.name, SideFiles.of_model(source), model.config)
    stops = set(settings_of(model.config, prompts).stops)
    inputs = [prompts.build(prompt, images) for prompt, images in samples]
    if not inputs:
        raise RequestError('at least one sample is needed: a prompt and an image')

    def run(converted: torch.nn.Module) -> list[torch.Tensor]:
        return [converted(**one, use_cache=False).logits for one in inputs]

    integers = convert(model, recipe, run)
    tell(0.5)
    report = _report(integers, model, recipe, inputs[0], item_bytes)
    if exam is not None:
        exam.ask(_asking(model, prompts, stops), after=False)
        with integers.on('integer') as converted:
            exam.ask(_asking(converted, prompts, stops), after=True)
        report.answers = exam.answers
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


def _asking(model: torch.nn.Module, prompts: PromptBuilder, stops: set[int]) -> Ask:
    """Return what answers greedily, the whole prompt anew for each token."""
    @torch.no_grad()
    def ask(prompt: str, images: list) -> str:
        inputs = prompts.build(prompt, images)
        asked = inputs['input_ids'].shape[1]
        for _ in range(MOST_TOKENS):
            logits = model(**inputs, use_cache=False).logits
            token = logits[:, -1:].argmax(-1)
            if token.item() in stops:
                break
            for name in ('input_ids', 'attention_mask'):
                more = token if name == 'input_ids' else torch.ones_like(token)
                inputs[name] = torch.cat([inputs[name], more], 1)
            if 'mm_token_type_ids' in inputs:
                inputs['mm_token_type_ids'] = torch.nn.functional.pad(
                    inputs['mm_token_type_ids'], (0, 1))
        return prompts.tokenizer.decode(inputs['input_ids'][0, asked:], skip_special_tokens=True)
    return ask


@torch.no_grad()
def _report(integers: IntegerModel, model: torch.nn.Module, recipe: Recipe,
            inputs: dict, item_bytes: int) -> IntegerReport:
    want = model(**inputs, use_cache=False).logits
    logits = {}
    before, integers.paths.dtype = integers.paths.dtype, torch.float64
    for path in ('train', 'integer'):
        with integers.on(path) as converted:
            logits[path] = converted(**inputs, use_cache=False).logits
    integers.paths.dtype = before
    got = logits['integer']
    products = {name: dual for name, dual in integers.duals.items()
                if isinstance(dual, DualProduct)}
    weights = [(dual.weight.numel(), dual.rule.weights.grid.bits,
                0 if dual.bias is None else dual.bias.numel()) for dual in products.values()]
    return IntegerReport(
        recipe.name, {}, max(integers.accumulators().values()), {}, integers.left,
        float((got.value - logits['train'].value).abs().max() / got.scale),
        float((got.value - want).norm() / want.norm()),
        _errors(integers, model, inputs),
        {name: (dual.rule.weights.grid.bits, dual.input.bits) for name, dual in products.items()},
        sum(count * bits // 8 + 4 * biases for count, bits, biases in weights),
        sum((count + biases) * item_bytes for count, _, biases in weights))


def _errors(integers: IntegerModel, model: torch.nn.Module, inputs: dict) -> dict[str, float]:
    """Return how far each product's integers are off what the model has in the same place."""
    want: dict[str, list[torch.Tensor]] = {}
    sums: dict[str, tuple[float, float]] = {}

    def keep(name: str, made: torch.Tensor) -> None:
        want.setdefault(name, []).append(made)

    def compare(name: str, made: torch.Tensor) -> None:
        expected = want[name].pop(0)
        off, size = sums.get(name, (0.0, 0.0))
        sums[name] = (off + float((made.value - expected).square().sum(dtype=torch.float64)),
                      size + float(expected.square().sum(dtype=torch.float64)))

    def run(where: torch.nn.Module, hear: Callable[[str, torch.Tensor], None]) -> None:
        handles = [where.get_submodule(name).register_forward_hook(
            lambda _, __, made, name=name: hear(name, made))
            for name, dual in integers.duals.items() if isinstance(dual, DualProduct)]
        try:
            where(**inputs, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()

    run(model, keep)
    with integers.on('integer') as converted:
        run(converted, compare)
    return {name: math.sqrt(off / size) if size else 0.0 for name, (off, size) in sums.items()}


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
