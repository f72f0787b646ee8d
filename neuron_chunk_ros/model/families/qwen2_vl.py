# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Qwen2-VL: a vision transformer of any resolution, Qwen2 decoder with 3-D rotary positions."""

from neuron_chunk_ros.model.families.base import Family

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
)
