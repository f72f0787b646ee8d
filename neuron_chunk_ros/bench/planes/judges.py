# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The exams there are, each with its model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from neuron_chunk_ros.bench import tabletop_model
from neuron_chunk_ros.bench.planes.exams import Judge, Prose, Questions
from neuron_chunk_ros.bench.planes.measure import Progress
from neuron_chunk_ros.bench.prose import prose, windows
from neuron_chunk_ros.bench.tabletop_exam import tabletop_exam
from neuron_chunk_ros.errors import BenchError
from neuron_chunk_ros.published import decoder, easy_vqa, evaluation
from neuron_chunk_ros.tabletop import shipped

EXAMS = ('tabletop', 'prose', 'easy-vqa')
_SEED = 1_000_003


def judges(names: Sequence[str], model: Path | None, cache: Path, *, questions: int, scenes: int,
           windows: int, progress: Progress) -> Iterator[tuple[str, Judge, Path, torch.nn.Module]]:
    """Yield (name, exam, the model's folder, the model).

    :param model: a folder trained on easy-VQA.
    :param cache: where what is fetched lies.
    :raises BenchError: for an unknown name, or easy-vqa without its model.
    :raises ModelError: where something can't be fetched or loaded.
    """
    for name in names:
        if name not in EXAMS:
            raise BenchError(f"no exam '{name}': choose from {', '.join(EXAMS)}")
    if 'easy-vqa' in names and model is None:
        raise BenchError('easy-vqa needs --model: train one with `neuron-chunk tabletop train '
                         'RUN_DIR --world easy-vqa` and give RUN_DIR/model')
    for name in names:
        yield name, *_judge(name, model, cache, questions, scenes, windows, progress)


def _judge(name: str, model: Path | None, cache: Path, questions: int, scenes: int, number: int,
           progress: Progress) -> tuple[Judge, Path, torch.nn.Module]:
    if name == 'tabletop':
        loaded = tabletop_model.load()
        return (Questions(tabletop_exam(loaded, scenes, _SEED), _SEED), shipped.model_dir(),
                loaded)
    if name == 'easy-vqa':
        loaded, shown = evaluation.load(model), easy_vqa.pictures(cache, 'test')
        done = iter(range(1, len(shown) + 1))
        return Questions(evaluation.easy_vqa_exam(
            loaded, model, shown, questions, _SEED,
            lambda: progress('easy-vqa: looking', next(done), 0)), _SEED), model, loaded
    folder = decoder.model_folder(cache)
    return (Prose(windows(folder, prose()[0], number), _SEED), folder,
            evaluation.load(folder))
