# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a question and camera frames to a family's model inputs, one file a family."""

from importlib import import_module
from pathlib import Path

from neuron_chunk_ros.model.prompts.base import Piece, PromptBuilder

__all__ = ['Piece', 'PromptBuilder', 'prompt_builder']

# Imported when needed: one family's processors shall not cost another's memory.
_BUILDERS = {'llava_onevision': 'LlavaOnevisionPrompt', 'qwen2_vl': 'Qwen2VLPrompt'}


def prompt_builder(family: str, folder: Path, config) -> PromptBuilder:
    """Return the family's builder, reading tokenizer and processor settings from `folder`."""
    module = import_module(f'{__name__}.{family}')
    return getattr(module, _BUILDERS[family])(folder, config)
