# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Model families the engine can run, one file each: decoder, tensor names, prompts.

The only place that knows their names.
"""

from collections.abc import Callable

import numpy as np

from neuron_chunk_ros.errors import ModelError, NeuronChunkError, out_of_memory
from neuron_chunk_ros.families.base import Family, GroupPlan, Member
from neuron_chunk_ros.families.generation import GenerationSettings, settings_of
from neuron_chunk_ros.families.llava_onevision import LLAVA_ONEVISION
from neuron_chunk_ros.families.prompts import PromptBuilder, PromptPart
from neuron_chunk_ros.families.qwen2_vl import QWEN2_VL
from neuron_chunk_ros.limits import DEFAULT_LIMITS, Limits
from neuron_chunk_ros.storage.side_files import SideFiles
from neuron_chunk_ros.storage.strict_json import shown

__all__ = ['FAMILIES', 'Family', 'GenerationSettings', 'GroupPlan', 'Member', 'PromptBuilder',
           'PromptPart', 'family_for', 'image_check', 'prompt_builder', 'settings_of']

FAMILIES = {family.name: family for family in (LLAVA_ONEVISION, QWEN2_VL)}


def family_for(config: dict) -> Family:
    """Return the family of a config.json. Raises ModelError for an unknown one, naming it."""
    kind = config.get('model_type')
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ModelError(
            f'model_type {shown(kind)} is not supported (known: {", ".join(sorted(FAMILIES))})')
    return family


def image_check(config: dict) -> Callable[[np.ndarray], None]:
    """Return what raises RequestError for a picture, [height, width, 3], of a size it can't take.

    :param config: a model's config.json; raises ModelError for an unknown family's.
    """
    prompts = family_for(config).prompts
    return lambda image: prompts.check_size(*image.shape[:2])


def prompt_builder(family: str, files: SideFiles, config,
                   limits: Limits = DEFAULT_LIMITS) -> PromptBuilder:
    """Return the family's builder, reading tokenizer and processor settings from `files`.

    It has been tried with one image and with two. Raises BundleError or ModelError where the files
    can't be used.
    """
    try:
        builder = FAMILIES[family].prompts(files, config, limits)
        builder.check()
        return builder
    except NeuronChunkError:
        raise
    except Exception as error:  # what libraries raise for what they didn't expect in a file
        if out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise files.failure('', "config.json, tokenizer or processor files can't be used "
                                f'({reason}); take them from the model this was converted from'
                            ) from error
