# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Exact match of a tabletop model on fresh scenes, question type by question type."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.storage.atomic import AtomicFolder
from neuron_chunk_ros.tabletop.batches import BatchMaker
from neuron_chunk_ros.tabletop.network import answer_logits, vision_features
from neuron_chunk_ros.tabletop.questions import MULTI_VIEW, SINGLE_VIEW, SceneQuestion, sample
from neuron_chunk_ros.tabletop.scenes import Scene, render

CAMERA = (640, 480)


@torch.inference_mode()
def exact_match(model: Path | torch.nn.Module, per_type: int = 300, seed: int = 1_000_003,
                blank: bool = False,
                report: Callable[[str], None] = lambda _: None) -> dict[str, float]:
    """Ask `per_type` questions of each type about scenes drawn as a 640 x 480 camera sees them.

    Answers are scored with the right words fed back in: the greedy answer equals the right one
    exactly if each of its words, and its end, is the likeliest at its place.

    :param model: a folder, or a model that is loaded.
    :param blank: show a grey image instead of the scene: how far guessing gets.
    :param report: called with each type's name as it begins.
    :return: fraction right by type.
    :raises ModelError: where the folder holds no model.
    """
    if not isinstance(model, torch.nn.Module):
        if not (model / 'config.json').is_file():
            raise ModelError(f'{model}: no model there (config.json is missing); give the folder '
                             'that training wrote, RUN_DIR/model')
        model = AutoModelForImageTextToText.from_pretrained(
            model, attn_implementation='eager', local_files_only=True).eval()
    maker = BatchMaker(CAMERA)
    scores = {}
    for kind, drawn in _questions(per_type, seed):
        report(kind)
        by_views: dict[int, list] = {}
        for scenes, question in drawn:
            by_views.setdefault(len(scenes), []).append((scenes, [question]))
        right = 0
        for prompts in by_views.values():
            for start in range(0, len(prompts), 50):
                right += _right(model, maker(prompts[start:start + 50]), blank)
        scores[kind] = right / per_type
    return scores


def _questions(per_type: int, seed: int
               ) -> Iterator[tuple[str, list[tuple[list[Scene], SceneQuestion]]]]:
    for number, kind in enumerate((*SINGLE_VIEW, *MULTI_VIEW)):
        # Seeds of evaluation never meet those of training, which start with the recipe's seed.
        rng = np.random.default_rng([seed, number])
        yield kind, [sample(rng, kind) for _ in range(per_type)]


def draw(folder: Path, per_type: int, seed: int) -> int:
    """Write the same questions as files: pictures, and questions.jsonl with prompts and answers.

    :return: how many questions.
    :raises ModelError: where the folder exists, or can't be written.
    """
    if folder.exists():
        raise ModelError(f'{folder}: exists already; give a folder to be made')
    if not folder.absolute().parent.is_dir():
        raise ModelError(f'{folder.absolute().parent} is not a folder: create it first')
    lines = []
    with AtomicFolder(folder, error=ModelError) as made:
        (made.folder / 'pictures').mkdir()
        for kind, drawn in _questions(per_type, seed):
            for number, (scenes, question) in enumerate(drawn):
                names = [f'pictures/{kind}-{number}-{view}.png' for view in range(len(scenes))]
                for name, scene in zip(names, scenes, strict=True):
                    Image.fromarray(render(scene, CAMERA)).save(made.folder / name)
                lines.append(json.dumps({'type': kind, 'prompt': question.text,
                                         'answer': question.answer, 'images': names}))
        (made.folder / 'questions.jsonl').write_text('\n'.join(lines) + '\n')
    return len(lines)


def _right(model, batch, blank: bool) -> int:
    pixels = batch.pixels.to(model.dtype)
    if blank:
        pixels = torch.zeros_like(pixels)
    logits, labels, _ = answer_logits(model, batch, vision_features(model, pixels))
    hits = logits.argmax(-1) == labels
    prompt = (batch.owner >= 0).nonzero()[:, 0]
    wrong = torch.zeros(len(batch.ids), dtype=torch.bool)
    wrong[prompt[~hits]] = True
    return int((~wrong).sum())


def table(scores: dict[str, float], guessing: dict[str, float] | None = None) -> str:
    """Lay the scores out as text, with the means of both kinds of question."""
    lines = ['type              exact match' + ('   blank image' if guessing else '')]

    def row(name: str, kinds: tuple[str, ...]) -> str:
        text = f'{name:<18}{np.mean([scores[k] for k in kinds]):>11.3f}'
        return text + (f'{np.mean([guessing[k] for k in kinds]):>14.3f}' if guessing else '')

    for name, kinds in (('mean of one view', SINGLE_VIEW), ('mean of several', MULTI_VIEW)):
        lines += [row(kind, (kind,)) for kind in kinds]
        lines.append(row(name, kinds))
    return '\n'.join(lines)
