# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation batches: views of a table, then many questions about them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from neuron_chunk_ros.families.pixels import squash
from neuron_chunk_ros.tabletop.checkpoint import IMAGE_SIZE, MEAN, PATCH, STD
from neuron_chunk_ros.tabletop.packing import IGNORE, PackedPrompts, pack
from neuron_chunk_ros.tabletop.questions import NUMBERS, SceneQuestion
from neuron_chunk_ros.tabletop.scenes import COLOURS, SHAPES, Scene, Thing, render, thing_map
from neuron_chunk_ros.tabletop.vocabulary import (
    END,
    START,
    VIDEO,
    VISION_END,
    VISION_START,
    build_tokenizer,
)

MAX_VIEWS = 4
PLACE_GRID = 4  # one cell for each pooled visual token
ABSENT = PLACE_GRID * PLACE_GRID
FRAME_TOKENS = (IMAGE_SIZE // PATCH // 2) ** 2 + 1


@dataclass
class TrainingBatch(PackedPrompts):
    """B prompts of L tokens with V views each."""

    pixels: torch.Tensor       # [B, V, 3, 64, 64] float32
    colours: torch.Tensor      # [B * V, 64] int64 patch labels, 0 = table
    shapes: torch.Tensor       # [B * V, 64] int64 patch labels, 0 = table
    named: torch.Tensor        # [n, 2] int64, (prompt, token) where a question names a thing
    places: torch.Tensor       # [n, 4] int64, its cell in each view, ABSENT, or IGNORE: no view


class BatchMaker:
    """Turns scenes and questions into tensors."""

    def __init__(self, camera: tuple[int, int] = (128, 96)):
        """`camera` is the (width, height) scenes are drawn at before the model's resize."""
        self.tokenizer = build_tokenizer()
        self.camera = camera
        number = self.tokenizer.convert_tokens_to_ids
        frame = [number(VISION_START), *[number(VIDEO)] * FRAME_TOKENS, number(VISION_END)]
        self._views = [[number('view'), number(NUMBERS[v + 1]), *frame] for v in range(4)]
        self._open = [number(START), number('user')]
        self._turn = [number(END), number(START), number('assistant')]
        self._end = [number(END)]
        self._pad = self.tokenizer.pad_token_id

    def prefix(self, views: int) -> list[int]:
        """Token numbers of the images' part of the prompt."""
        return self._open + [t for v in range(views) for t in self._views[v]]

    def __call__(self, prompts: Sequence[tuple[Sequence[Scene], Sequence[SceneQuestion]]]
                 ) -> TrainingBatch:
        """Build a batch; every prompt must have the same number of views."""
        views = len(prompts[0][0])
        prefix = self.prefix(views)
        turns = [[(self._encode(q.text) + self._turn, self._encode(q.answer) + self._end)
                  for q in questions] for _, questions in prompts]
        packed = pack([(prefix, one) for one in turns], self._pad)
        scenes = [s for shown, _ in prompts for s in shown]
        pixels = np.stack([squash(render(s, self.camera), IMAGE_SIZE, MEAN, STD) for s in scenes])
        colours, shapes = zip(*(_patch_labels(s) for s in scenes), strict=True)
        found = []  # (prompt, token, its cell in each view)
        for number, ((shown, questions), asked) in enumerate(zip(prompts, turns, strict=True)):
            at = len(prefix)
            for question, (text, answer) in zip(questions, asked, strict=True):
                found += [(number, at + token, cells)
                          for token, cells in self._places(question.text, shown)]
                at += len(text) + len(answer) - 1
        return TrainingBatch(
            **vars(packed),
            pixels=torch.from_numpy(pixels).unflatten(0, (len(prompts), views)),
            colours=torch.from_numpy(np.stack(colours)),
            shapes=torch.from_numpy(np.stack(shapes)),
            named=torch.tensor([one[:2] for one in found], dtype=torch.long).reshape(-1, 2),
            places=torch.tensor([one[2] for one in found],
                                dtype=torch.long).reshape(-1, MAX_VIEWS))

    def _places(self, text: str, scenes: Sequence[Scene]):
        """Yield (token, its cell in each view) for every thing the text names in full."""
        words = self.tokenizer.convert_ids_to_tokens(self._encode(text))
        for at in range(1, len(words)):
            colour, shape = words[at - 1:at + 1]
            if colour in COLOURS and shape in SHAPES:
                cells = [_cell(s.find(colour, shape)) for s in scenes]
                yield at, cells + [IGNORE] * (MAX_VIEWS - len(cells))

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def _cell(thing: Thing | None) -> int:
    if thing is None:
        return ABSENT
    return int(thing.y * PLACE_GRID) * PLACE_GRID + int(thing.x * PLACE_GRID)


def _patch_labels(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    table = [(0, 0)] + [(1 + list(COLOURS).index(t.colour), 1 + SHAPES.index(t.shape))
                        for t in scene.things]
    labels = np.asarray(table)[thing_map(scene, IMAGE_SIZE // PATCH).reshape(-1)]
    return labels[:, 0], labels[:, 1]
