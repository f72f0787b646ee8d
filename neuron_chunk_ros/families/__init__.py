# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Model families the engine can run, one file each: decoder, tensor names, prompts.

The only place that knows their names.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.families.base import Family, GroupPlan, Member
from neuron_chunk_ros.families.generation import (
    GENERATION_JSON,
    GenerationSettings,
    generation_settings,
    read_generation,
)
from neuron_chunk_ros.families.llava_onevision import LLAVA_ONEVISION
from neuron_chunk_ros.families.prompts import PromptBuilder, PromptPart, stop_tokens
from neuron_chunk_ros.families.qwen2_vl import QWEN2_VL

__all__ = ['FAMILIES', 'Family', 'GENERATION_JSON', 'GenerationSettings', 'GroupPlan', 'Member',
           'PromptBuilder', 'PromptPart', 'family_for', 'generation_settings', 'image_check',
           'prompt_builder', 'read_generation', 'stop_tokens']

FAMILIES = {family.name: family for family in (LLAVA_ONEVISION, QWEN2_VL)}


def family_for(config: dict) -> Family:
    """Return the family of a config.json. Raises ModelError for an unknown one, naming it."""
    kind = config.get('model_type')
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ModelError(
            f'model_type {kind!r} is not supported (known: {", ".join(sorted(FAMILIES))})')
    return family


def image_check(config: dict) -> Callable[[np.ndarray], None]:
    """Return what raises RequestError for a picture, [height, width, 3], of a size it can't take.

    :param config: a model's config.json; raises ModelError for an unknown family's.
    """
    prompts = family_for(config).prompts
    return lambda image: prompts.check_size(*image.shape[:2])


def prompt_builder(family: str, folder: Path, config) -> PromptBuilder:
    """Return the family's builder, reading tokenizer and processor settings from `folder`."""
    return FAMILIES[family].prompts(folder, config)
