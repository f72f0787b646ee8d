# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How the decoder attends: by head class where a pass has images, and drafts one by one.

By head class: attention/ has the classes and computes them; here they meet transformers.

Drafts are verified in one pass. Its logits have to be those of single steps to the last bit, or
greedy decoding would say something else where two words are about equally likely; and a product's
rounding depends on how many rows it has. So a few tokens attend one by one.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from neuron_chunk_ros.attention.regrouping import Regrouping
from neuron_chunk_ros.attention.segments import SegmentTable
from neuron_chunk_ros.attention.templates import density
from neuron_chunk_ros.attention.varlen import Variable
from neuron_chunk_ros.engine.products import FEW

NAME = 'neuron_chunk_one_by_one'
MODES = ('dense', 'blindsight')
# Told (layer, query, key, value, segments, scale) of each layer's attention to images.
Listener = Callable[..., None]


class Attending:
    """Which tokens the pass that runs is about, and which of them each head sees."""

    def __init__(self, classes: Sequence[Sequence[int]] | None = None):
        """`classes`: of each layer's query heads, see attention.templates; None: none known."""
        self.classes = classes
        self.mode = MODES[0]
        self.listener: Listener | None = None
        self.density = 1.0      # pairs of tokens attended to / of causal attention
        self.segments, self._first, self._images = SegmentTable(), 0, False
        self._regrouping: Regrouping | None = None

    def attach(self, layers: Iterable[torch.nn.Module]) -> None:
        """Be asked by a decoder's layers."""
        for number, layer in enumerate(layers):
            layer.self_attn.neuron_chunk_attending = self, number

    def begin(self, segments: SegmentTable, first: int) -> None:
        """Note what a pass is about: all tokens there will be, and the first new one's number."""
        self.segments, self._first, self._regrouping = segments, first, None
        self._images = any(segment.image and start + segment.tokens > first
                           for start, segment in segments)
        self.density = 1.0
        if self._images and self._by_class:
            counts = Counter(kind for layer in self.classes for kind in layer)
            self.density = sum(number * density(segments, kind, first)
                               for kind, number in counts.items()) / counts.total()

    @property
    def _by_class(self) -> bool:
        return self.mode == 'blindsight' and self.classes is not None

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
               scale: float | None) -> torch.Tensor | None:
        """Return [1, heads, tokens, width]; None where the pass sees everything in this layer."""
        if not self._images or key.shape[2] != self.segments.tokens:
            return None
        if self.listener is not None:
            self.listener(layer, query, key, value, self.segments, scale)
        if not self._by_class or not any(self.classes[layer]):
            return None
        kernel = _kernel(query.device.type)
        if kernel is not None:
            return kernel(query, key, value, self.segments, self.classes[layer], scale)
        if self._regrouping is None:  # the same in all layers of the pass
            how = Variable if Variable.works(query) else Regrouping
            self._regrouping = how(self.segments, self._first)
        return self._regrouping.attend(query, key, value, self.classes[layer], scale)


@functools.cache
def _kernel(device: str) -> Callable[..., torch.Tensor] | None:
    """Return what attends by class on such a device; None where regrouping does.

    On a GPU that is the Triton kernel, without Triton (Jetson's wheels of torch) FlashAttention's.
    """
    if device != 'cuda':
        return None
    try:
        from neuron_chunk_ros.attention import triton_prefill
    except ImportError:  # no Triton came with this torch
        return None
    return triton_prefill.attend


def use(config) -> None:
    """Have the decoder of this text configuration attend so. Not where it was told otherwise."""
    if config._attn_implementation == 'sdpa':
        config._attn_implementation = NAME


def _attend(module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
            attention_mask: torch.Tensor | None, **kwargs) -> tuple[torch.Tensor, None]:
    """See transformers' sdpa_attention_forward."""
    attending, layer = getattr(module, 'neuron_chunk_attending', (None, 0))
    if attending is not None:
        seen = attending.attend(layer, query, key, value, kwargs.get('scaling'))
        if seen is not None:
            return seen.transpose(1, 2).contiguous(), None
    tokens, first = query.shape[2], key.shape[2] - query.shape[2]
    if not 1 < tokens <= FEW or not _is_causal(attention_mask, first):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return torch.cat([
        sdpa_attention_forward(module, query[:, :, at:at + 1], key[:, :, :first + at + 1],
                               value[:, :, :first + at + 1], None, **kwargs)[0]
        for at in range(tokens)], dim=1), None


def _is_causal(mask: torch.Tensor | None, first: int) -> bool:
    """Whether each token may look at all up to itself, and at none behind."""
    if mask is None or mask.dtype != torch.bool or mask.shape[:2] != (1, 1):
        return False
    wanted = torch.ones_like(mask[0, 0]).tril(first)
    return torch.equal(mask[0, 0], wanted)


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS['sdpa'])
