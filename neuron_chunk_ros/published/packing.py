# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures and questions as the tokens that the engine would make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from neuron_chunk_ros.families import prompt_builder
from neuron_chunk_ros.storage.side_files import SideFiles
from neuron_chunk_ros.tabletop.packing import PackedPrompts, pack


@dataclass
class PictureBatch(PackedPrompts):
    """A prompt for each picture."""

    pixels: torch.Tensor   # [B, 1, 3, S, S] float32


class Packer:
    """Packs each picture with its questions."""

    def __init__(self, folder: Path, config):
        """`folder`: the model's, for its tokenizer and template. Raises ModelError."""
        self._prompts = prompt_builder(config.model_type, SideFiles.of_model(folder), config)
        self._end = config.text_config.eos_token_id

    def __call__(self, shown: Sequence[tuple[np.ndarray, Sequence[tuple[str, str]]]]
                 ) -> PictureBatch:
        """Return the batch of (picture uint8 [h, w, 3], its questions and answers)."""
        prompts, pixels = [], []
        for picture, questions in shown:
            frame = self._prompts.frame(self._prompts.encode([picture]), '', 0, '')
            head = self._prompts.prefix().ids[0].tolist() + frame.ids[0].tolist()
            prompts.append((head, [
                (self._prompts.suffix(question, frame.trail).ids[0].tolist(),
                 [*self._answer(answer), self._end]) for question, answer in questions]))
            pixels.append(frame.pixels['pixel_values_videos'])
        return PictureBatch(**vars(pack(prompts, self._end)), pixels=torch.cat(pixels))

    def _answer(self, text: str) -> list[int]:
        return self._prompts.tokenizer.encode(text, add_special_tokens=False)
