# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where tokens stand for rotary embedding, and moving keys that have been rotated.

Positions are given to the model explicitly, piece by piece, so that nothing depends on what the
model remembers of earlier calls.
"""

from __future__ import annotations

import torch

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.families import PromptBuilder, PromptPart

# The frequencies of these are fixed; others' change with the length.
_STATIC = ('default', 'linear', 'yarn', 'llama3')


class Positions:
    """Numbers a piece's tokens: plainly, or in time, height and width where the model does so."""

    def __init__(self, model, prompts: PromptBuilder):
        self._rope_index = getattr(model.model, 'get_rope_index', None)
        self._arguments = prompts.position_arguments

    def of(self, piece: PromptPart, start: int) -> tuple[torch.Tensor, int]:
        """Return position ids, [1, tokens] or [3, 1, tokens], and the first one behind them."""
        tokens = piece.ids.shape[1]
        if self._rope_index is None or not piece.pixels:
            plain = torch.arange(start, start + tokens, device=piece.ids.device)[None]
            return (plain if self._rope_index is None else plain.expand(3, 1, -1)), start + tokens
        ids, _ = self._rope_index(piece.ids, **self._arguments(piece))
        ids = ids + start
        return ids, int(ids.max()) + 1


class KeyRotation:
    """Turns keys from where they were computed to where they stand now.

    Attention sees the difference of two positions only. A key's move by n positions is one more
    rotation by n times the model's own frequencies, in all three axes alike.
    """

    def __init__(self, decoder: torch.nn.Module, head: int):
        """Read the frequencies.

        :raises ModelError: where they change with the length, or don't turn the whole head.
        """
        rotary = decoder.rotary_emb
        kind = getattr(rotary, 'rope_type', 'default')
        if kind not in _STATIC:
            raise ModelError(f"a stream can't be kept with rope_type '{kind}' (known: "
                             f'{", ".join(_STATIC)}): ask with all images at once instead')
        if 2 * len(rotary.inv_freq) != head:
            raise ModelError(f"a stream can't be kept where {2 * len(rotary.inv_freq)} of a "
                             f"head's {head} channels are rotated: ask with all images at once "
                             'instead')
        self._frequencies = rotary.inv_freq.double()

    def __call__(self, keys: torch.Tensor, positions: int) -> torch.Tensor:
        """Return keys [..., head width] moved by so many positions, computed in float32."""
        angles = positions * self._frequencies
        cos, sin = angles.cos().float(), angles.sin().float()
        first, second = keys.float().chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin],
                         dim=-1).to(keys.dtype)
