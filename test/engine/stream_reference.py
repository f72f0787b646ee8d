# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a stream must compute, written plainly: no position is ever moved.

Keys are kept without rotation, beside their segment. For each step all of them are rotated from
scratch at gapless positions from 0 on, and plain transformers runs with a cache filled with them.
"""

import torch
from transformers import DynamicCache


def rotate(keys, cos, sin):
    """Rotate keys [1, heads, tokens, width] by cos and sin [1, tokens, width]."""
    half = keys.shape[-1] // 2
    turned = torch.cat([-keys[..., half:], keys[..., :half]], dim=-1)
    return keys * cos[:, None] + turned * sin[:, None]


class Reference:
    """Segments and their keys without rotation; `model` is plain transformers'."""

    def __init__(self, model, builder, window):
        self.model, self.builder, self.window = model, builder, window
        self.segments = []

    def frames(self):
        return [s for s in self.segments if s['camera'] is not None]

    def append(self, image, camera='', name=''):
        if not self.segments:
            self._add(self.builder.prefix(), None, -1)
        own = [s for s in self.frames() if s['camera'] == camera]
        if len(own) >= self.window:
            self.segments.remove(own[0])
        taken = [s['number'] for s in self.frames()]
        number = min(set(range(len(taken) + 1)) - set(taken))
        trail = self.frames()[-1]['piece'].trail if self.frames() else ''
        piece = self.builder.frame(self.builder.encode([image]), name, number, trail)
        self._add(piece, camera, number)

    def drop(self, index):
        """Drop a frame for want of memory."""
        self.segments.remove(self.frames()[index])

    @torch.inference_mode()
    def ask(self, prompt, tokens):
        """Return the logits of each greedy token, [tokens, vocabulary]."""
        piece = self.builder.suffix(prompt, self.segments[-1]['piece'].trail)
        cache, at = self._cache()
        logits = []
        ids, pixels = piece.ids, piece.pixels
        for _ in range(tokens):
            positions = self._positions(ids, pixels, None) + at
            out = self.model(input_ids=ids, **pixels, position_ids=positions,
                             past_key_values=cache).logits[0, -1]
            at = int(positions.max()) + 1
            logits.append(out)
            ids = out.argmax()[None, None]
        return torch.stack(logits)

    @torch.inference_mode()
    def _add(self, piece, camera, number):
        cache, at = self._cache()
        before = cache.get_seq_length()
        positions = self._positions(piece.ids, piece.pixels, piece.visual)
        self.model(input_ids=piece.ids, **piece.pixels, position_ids=positions + at,
                   past_key_values=cache, logits_to_keep=1)
        cos, sin = self._turn(positions + at)
        keys = [rotate(layer.keys[:, :, before:], cos, -sin) for layer in cache.layers]
        values = [layer.values[:, :, before:].clone() for layer in cache.layers]
        self.segments.append({'camera': camera, 'number': number, 'piece': piece, 'keys': keys,
                              'values': values, 'positions': positions})

    def _cache(self):
        """Return a cache of all segments at gapless positions, and the next position."""
        cache, at = DynamicCache(), 0
        for segment in self.segments:
            cos, sin = self._turn(segment['positions'] + at)
            at += int(segment['positions'].max()) + 1
            for layer, (keys, values) in enumerate(zip(segment['keys'], segment['values'],
                                                       strict=True)):
                cache.update(rotate(keys, cos, sin), values, layer)
        return cache, at

    def _turn(self, positions):
        return self.model.model.language_model.rotary_emb(torch.zeros(1), positions)

    def _positions(self, ids, pixels, visual):
        if not hasattr(self.model.model, 'get_rope_index'):
            return torch.arange(ids.shape[1])[None]
        if not pixels:
            return torch.arange(ids.shape[1]).expand(3, 1, -1)
        return self.model.model.get_rope_index(
            ids, mm_token_type_ids=visual[None].long(),
            image_grid_thw=pixels['image_grid_thw'])[0]
