# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""English prose that comes with Python, to judge a decoder by."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path

import torch

from neuron_chunk_ros.errors import BenchError

WINDOW = 512  # tokens that are judged together


def prose() -> tuple[str, str]:
    """Return two texts that have nothing in common: to judge, to calibrate."""
    topics = pydoc_data.topics.topics
    names = sorted(topics)
    judged, other = ('\n\n'.join(topics[name] for name in names[at::2]).split('\n\n')
                     for at in (0, 1))
    # Topics share whole paragraphs.
    seen = {' '.join(paragraph.split()) for paragraph in judged}
    return '\n\n'.join(judged), '\n\n'.join(
        paragraph for paragraph in other if ' '.join(paragraph.split()) not in seen)


def windows(model: Path, text: str, number: int) -> torch.Tensor:
    """Return int64 [windows, WINDOW], spread over the text.

    :param model: a folder with the tokenizer.
    :raises BenchError: where the text is shorter.
    """
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    step = max(WINDOW, len(ids) // number)
    found = [ids[at:at + WINDOW] for at in range(0, step * number, step)]
    if any(len(window) < WINDOW for window in found):
        raise BenchError(f'the prose has fewer than {number} windows of {WINDOW} tokens')
    return torch.tensor(found)
