# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""LLaVA-OneVision: each camera frame is a one-frame video.

That is the family's compact form (196 pooled tokens and a newline for 384 x 384), the one the
Neuron Chunking paper appends frames in. transformers' own video processor needs torchvision; a
frame's part of it is a resize and a normalisation, so it is done here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from neuron_chunk_ros.families.base import Family
from neuron_chunk_ros.families.pixels import squash
from neuron_chunk_ros.families.prompts import PromptBuilder
from neuron_chunk_ros.limits import DEFAULT_LIMITS, Limits
from neuron_chunk_ros.storage.side_files import SideFiles

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class LlavaOnevisionPrompt(PromptBuilder):
    """Builds input_ids and pixel_values_videos [images, 1, 3, size, size]."""

    image_part = 'video'

    def __init__(self, files: SideFiles, config, limits: Limits = DEFAULT_LIMITS):
        super().__init__(files, config, limits)
        self.visual_ids = (config.video_token_id, config.image_token_id)
        self.placeholder = self.tokenizer.convert_ids_to_tokens(config.video_token_id)
        vision = config.vision_config
        self.size = vision.image_size
        side = math.ceil(vision.image_size // vision.patch_size / 2)
        self.frame_tokens = side * side + 1
        # Old folders have no file for videos; both processors then share their settings.
        name = 'video_preprocessor_config.json'
        pixels = files.json(name if name in files else 'preprocessor_config.json')
        self.mean = pixels.get('image_mean', _CLIP_MEAN)
        self.std = pixels.get('image_std', _CLIP_STD)

    def tokens_of(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """See PromptBuilder.tokens_of."""
        return [self.frame_tokens] * len(sizes)

    def most_patches(self, images: int, context: int) -> tuple[int, int]:
        """See PromptBuilder.most_patches."""
        patch = self.config.vision_config.patch_size
        return min(images, context // self.frame_tokens) * (self.size // patch)**2, 3 * patch**2

    def encode(self, images: Sequence[np.ndarray]) -> tuple[dict[str, torch.Tensor], list[int]]:
        """See PromptBuilder.encode."""
        frames = np.stack([squash(i, self.size, self.mean, self.std) for i in images])
        return ({'pixel_values_videos': torch.from_numpy(frames)[:, None]},
                [self.frame_tokens] * len(images))


LLAVA_ONEVISION = Family(
    name='llava_onevision',
    text_types=('qwen2',),
    decoder_path='model.language_model.layers',
    hub_prefixes=(
        ('language_model.lm_head.', 'lm_head.'),
        ('language_model.model.', 'model.language_model.'),
        ('vision_tower.vision_model.', 'model.vision_tower.'),
        ('multi_modal_projector.', 'model.multi_modal_projector.'),
        ('image_newline', 'model.image_newline'),
    ),
    alias_prefixes=(
        # the tower had an inner module in memory up to transformers 4
        ('model.vision_tower.vision_model.', 'model.vision_tower.'),
        # transformers 5 saves the published names, but without the tower's inner module
        ('vision_tower.', 'model.vision_tower.'),
    ),
    prompts=LlavaOnevisionPrompt,
)
