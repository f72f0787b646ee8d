# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""easy-VQA (Victor Zhou, MIT): 5,000 pictures of a shape each, 48,248 questions and answers."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from neuron_chunk_ros.published.wheel import fetched

_WHEEL = 'easy-vqa==1.0'
_SHA256 = 'fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f'
COLOURS = ('black', 'blue', 'brown', 'gray', 'green', 'red', 'teal', 'yellow')
SHAPES = ('circle', 'rectangle', 'triangle')


@dataclass(frozen=True)
class Picture:
    """A picture and what is asked about it."""

    png: bytes
    questions: tuple[tuple[str, str], ...]   # (question, its answer)

    @cached_property
    def pixels(self) -> np.ndarray:
        """Return uint8 [64, 64, 3], RGB."""
        return np.asarray(Image.open(io.BytesIO(self.png)).convert('RGB'))

    def named(self, words: Sequence[str]) -> int:
        """Return which of `words` the picture shows, by its questions; -1 where none tells."""
        for question, answer in self.questions:
            asked = question.rstrip('?').split()
            # 'what color is the circle?' shows that one is there; so does 'yes' to its presence.
            there = asked[0] == 'what' or (answer == 'no') == ('not' in asked or 'no' in asked)
            for number, word in enumerate(words):
                if word == answer or (there and word in asked):
                    return number
        return -1

    def patches(self, size: int) -> np.ndarray:
        """Return which squares of `size` pixels the shape fills to a quarter: bool [n, n]."""
        away = np.abs(self.pixels.astype(int) - np.median(self.pixels, axis=(0, 1))).max(2) > 40
        side = len(away) // size
        return away.reshape(side, size, side, size).mean(axis=(1, 3)) >= 0.25


def pictures(cache: Path, split: str) -> list[Picture]:
    """Return all pictures of a split, 'train' (4,000) or 'test' (1,000), fetched at need.

    Raises ModelError where they can't be fetched.
    """
    with zipfile.ZipFile(fetched(cache, _WHEEL, _SHA256, 'which has the pictures')) as packed:
        asked: dict[int, list] = {}
        for question, answer, number in json.loads(
                packed.read(f'easy_vqa/data/{split}/questions.json')):
            asked.setdefault(number, []).append((question, answer))
        return [Picture(packed.read(f'easy_vqa/data/{split}/images/{number}.png'), tuple(found))
                for number, found in sorted(asked.items())]
