# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the families' prompt builders share: the chat template and the tokenizer."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from neuron_chunk_ros.errors import BundleError


class PromptBuilder(ABC):
    """Builds the inputs of one question. Subclasses know how their family encodes images."""

    image_part = 'image'           # what the family's chat template calls a picture
    visual_ids: tuple[int, ...]    # token numbers that stand for visual features

    def __init__(self, folder: Path, config):
        self.folder, self.config = Path(folder), config
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BundleError(f'{folder}: no usable tokenizer ({error})') from error
        template = self._template()
        if template is None:
            raise BundleError(f'{folder}: no chat template (chat_template.jinja); take it from '
                              'the model this bundle was converted from')
        self.tokenizer.chat_template = template

    @abstractmethod
    def build(self, prompt: str, images: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Return keyword arguments for the model.

        :param images: uint8 [height, width, 3] RGB each.
        :return: input_ids and attention_mask [1, tokens], and the family's pixel tensors.
        """

    def chat(self, prompt: str, images: int) -> str:
        """Return the prompt in the model's chat format, one placeholder for each image."""
        parts = [{'type': self.image_part} for _ in range(images)]
        content = [*parts, {'type': 'text', 'text': prompt}]
        return self.tokenizer.apply_chat_template(
            [{'role': 'user', 'content': content}], tokenize=False, add_generation_prompt=True)

    def tokenize(self, text: str) -> dict[str, torch.Tensor]:
        """Return input_ids and attention_mask, int64 [1, tokens]."""
        ids = torch.tensor([self.tokenizer.encode(text, add_special_tokens=False)])
        return {'input_ids': ids, 'attention_mask': torch.ones_like(ids)}

    def settings(self, name: str) -> dict:
        """Return one of the bundle's processor files, {} where it has none."""
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else {}

    def _template(self) -> str | None:
        plain = self.folder / 'chat_template.jinja'
        if plain.exists():
            return plain.read_text()
        # Older folders keep the processor's template in a JSON file of its own.
        return self.settings('chat_template.json').get(
            'chat_template', self.tokenizer.chat_template)
