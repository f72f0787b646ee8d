# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Qwen2-VL: images at their own resolution, one token for each 28 x 28 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from neuron_chunk_ros.families.base import Family
from neuron_chunk_ros.families.prompts import PromptBuilder, PromptPart


class Qwen2VLPrompt(PromptBuilder):
    """Builds input_ids, mm_token_type_ids, pixel_values [patches, width], image_grid_thw."""

    most_ratio = 200  # the image processor's own limit
    not_pixels = ('attention_mask', 'mm_token_type_ids')

    def __init__(self, folder: Path, config):
        super().__init__(folder, config)
        self.visual_ids = (config.image_token_id, config.video_token_id)
        self.placeholder = self.tokenizer.convert_ids_to_tokens(config.image_token_id)
        from transformers import AutoImageProcessor  # another family shall not pay for it
        # The PIL back end gives the same pixels on machines with and without torchvision.
        self.processor = AutoImageProcessor.from_pretrained(
            self.folder, local_files_only=True, backend='pil')

    def encode(self, images: Sequence[np.ndarray]) -> tuple[dict[str, torch.Tensor], list[int]]:
        """See PromptBuilder.encode."""
        for image in images:
            self.check_size(*image.shape[:2])
        pixels = dict(self.processor(images=list(images), return_tensors='pt',
                                     input_data_format='channels_last'))
        merged = self.processor.merge_size ** 2
        return pixels, (pixels['image_grid_thw'].prod(dim=1) // merged).tolist()

    def build(self, prompt: str, images: Sequence[np.ndarray],
              names: Sequence[str] = ()) -> dict[str, torch.Tensor]:
        """See PromptBuilder.build."""
        inputs = super().build(prompt, images, names)
        inputs['mm_token_type_ids'] = (inputs['input_ids'] == self.visual_ids[0]).long()
        return inputs

    def position_arguments(self, part: PromptPart) -> dict[str, torch.Tensor | None]:
        """See PromptBuilder.position_arguments."""
        return {'mm_token_type_ids': part.visual[None].long(),
                'image_grid_thw': part.pixels.get('image_grid_thw')}


QWEN2_VL = Family(
    name='qwen2_vl',
    text_types=('qwen2_vl_text',),
    decoder_path='model.language_model.layers',
    hub_prefixes=(
        ('visual.', 'model.visual.'),
        ('model.', 'model.language_model.'),
    ),
    alias_prefixes=(
        # transformers from 4.52 on in memory: already a module path, not a decoder's 'model.'
        ('model.visual.', 'model.visual.'),
        ('model.language_model.', 'model.language_model.'),
    ),
    prompts=Qwen2VLPrompt,
)
