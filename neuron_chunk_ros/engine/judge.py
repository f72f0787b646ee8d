# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A model's own settings applied to its logits: which token is the likeliest then."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neuron_chunk_ros.families import GenerationSettings


class Judge:
    """Changes the logits of one answer as the model's settings ask, also those behind drafts."""

    def __init__(self, settings: GenerationSettings, prompt: torch.Tensor, most: int):
        """See GenerationSettings.processors."""
        self._processors = settings.processors(prompt, most)
        self._prompt = prompt

    def __bool__(self) -> bool:
        """Whether there is anything to change."""
        return bool(self._processors)

    def __call__(self, logits: torch.Tensor, answer: Sequence[int]) -> torch.Tensor:
        """Return the logits, changed.

        :param logits: float32 [tokens, vocabulary]: of what follows the answer's last tokens, one
            more for each; the last row is of what follows the whole answer.
        :param answer: the tokens so far, drafts among them.
        """
        if not self._processors:
            return logits
        whole = torch.cat([self._prompt, self._prompt.new_tensor([list(answer)])], dim=1)
        rows = []
        for row in range(len(logits)):
            known = whole[:, :whole.shape[1] - (len(logits) - 1 - row)]
            rows.append(self._processors(known, logits[row:row + 1].clone()))
        return torch.cat(rows)
