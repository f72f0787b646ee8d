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
from neuron_chunk_ros.limits import DEFAULT_LIMITS, Limits
from neuron_chunk_ros.storage.side_files import SideFiles


class Qwen2VLPrompt(PromptBuilder):
    """Builds input_ids, mm_token_type_ids, pixel_values [patches, width], image_grid_thw."""

    most_ratio = 200  # the image processor's own limit
    not_pixels = ('attention_mask', 'mm_token_type_ids')

    def __init__(self, files: SideFiles, config, limits: Limits = DEFAULT_LIMITS):
        super().__init__(files, config, limits)
        self.visual_ids = (config.image_token_id, config.video_token_id)
        self.placeholder = self.tokenizer.convert_ids_to_tokens(config.image_token_id)

    def _read(self, copies: Path) -> None:
        super()._read(copies)
        if 'preprocessor_config.json' not in self.files:
            raise self.files.failure('preprocessor_config.json', 'it is missing; take it from the '
                                     'model this was converted from')
        from transformers import AutoImageProcessor as Processor  # others shall not pay for it
        # The PIL back end gives the same pixels on machines with and without torchvision.
        self.processor = self._loaded('image processor', lambda: Processor.from_pretrained(
            copies, local_files_only=True, trust_remote_code=False, backend='pil'))

    def check(self) -> None:
        """See PromptBuilder.check."""
        vision, settings = self.config.vision_config, self.processor
        for name, wanted in (('patch_size', vision.patch_size),
                             ('temporal_patch_size', vision.temporal_patch_size),
                             ('merge_size', vision.spatial_merge_size)):
            if getattr(settings, name, None) != wanted:
                raise self.files.failure('preprocessor_config.json', f'{name} is '
                                         f"{getattr(settings, name, None)}, the model's config "
                                         f'says {wanted}')
        super().check()  # behind it, for a wrong size makes an image as large as it likes

    def tokens_of(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """See PromptBuilder.tokens_of."""
        merged, found = self.processor.merge_size ** 2, []
        for height, width in sizes:
            self.check_size(height, width)
            patches = self.processor.get_number_of_image_patches(height, width, {})
            found.append(int(patches) // merged)
        return found

    def most_patches(self, images: int, context: int) -> tuple[int, int]:
        """See PromptBuilder.most_patches."""
        settings = self.processor
        return (context * settings.merge_size**2,
                3 * settings.temporal_patch_size * settings.patch_size**2)

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
