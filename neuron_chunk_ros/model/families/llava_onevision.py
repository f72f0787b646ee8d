# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""LLaVA-OneVision: SigLIP vision tower, two-layer projector, Qwen2 decoder."""

from neuron_chunk_ros.model.families.base import Family

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
)
