# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Model families the engine can run, one file each: decoder, tensor names, prompts.

The only place that knows their names.
"""

from pathlib import Path

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.families.base import Family, GroupPlan, Member
from neuron_chunk_ros.families.llava_onevision import LLAVA_ONEVISION
from neuron_chunk_ros.families.prompts import PromptBuilder, PromptPart, stop_tokens
from neuron_chunk_ros.families.qwen2_vl import QWEN2_VL

__all__ = ['FAMILIES', 'Family', 'GroupPlan', 'Member', 'PromptBuilder', 'PromptPart',
           'family_for', 'prompt_builder', 'stop_tokens']

FAMILIES = {family.name: family for family in (LLAVA_ONEVISION, QWEN2_VL)}


def family_for(config: dict) -> Family:
    """Return the family of a config.json. Raises ModelError for an unknown one, naming it."""
    kind = config.get('model_type')
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ModelError(
            f'model_type {kind!r} is not supported (known: {", ".join(sorted(FAMILIES))})')
    return family


def prompt_builder(family: str, folder: Path, config) -> PromptBuilder:
    """Return the family's builder, reading tokenizer and processor settings from `folder`."""
    return FAMILIES[family].prompts(folder, config)
