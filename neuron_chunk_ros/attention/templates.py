# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a head of each class may see (BlindSight, section 3; the exact forms are our own).

Tokens of an image see, and only those ahead of themselves:

* Dense: everything;
* Intra-Image+Sink: their own image and the sinks;
* Intra-Image: their own image;
* Sink: the sinks, and of their own image the block they are in and the one before it.

Sinks are the text ahead of the first image and the text tokens of earlier images' segments, their
delimiters. Text behind an image sees everything, whatever the class: a head that looks for what a
question describes stays able to.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from neuron_chunk_ros.attention.segments import Segment, SegmentTable

DENSE, INTRA_SINK, INTRA, SINK = range(4)
NAMES = ('Dense', 'Intra-Image+Sink', 'Intra-Image', 'Sink')
BLOCK = 32  # tokens; what is local to a Sink head
_MOST_LEADING = 64  # tokens of the text ahead that are sinks


def images(table: SegmentTable, first: int) -> Iterator[tuple[int, Segment, list[int]]]:
    """Yield (first token, segment, its sinks' tokens) of images with a token from `first` on."""
    sinks: list[int] = []
    for start, segment in table:
        if segment.image:
            if start + segment.tokens > first:
                yield start, segment, list(sinks)
            sinks += [start + at for at in segment.text]
        elif not start:
            sinks += range(min(segment.tokens, _MOST_LEADING))


def allowed(table: SegmentTable, template: int, first: int) -> torch.Tensor:
    """Return what tokens from number `first` on may see: bool [tokens - first, tokens].

    The reference: nothing that is fast asks for it.
    """
    tokens = table.tokens
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    found = causal.clone()
    if template != DENSE:
        for start, segment, sinks in images(table, first):
            end = start + segment.tokens
            mine = torch.zeros(segment.tokens, tokens, dtype=torch.bool)
            if template != SINK:
                mine[:, start:end] = True
            else:
                at = torch.arange(segment.tokens)
                block = at // BLOCK
                mine[:, start:end] = (block[:, None] - block[None]).clamp(min=-1) <= 1
            if template != INTRA:
                mine[:, sinks] = True
            found[start:end] = mine & causal[start:end]
    return found[first:]


def density(table: SegmentTable, template: int, first: int = 0) -> float:
    """Return the share of causal attention that a template keeps, by tokens seen."""
    tokens = table.tokens
    dense = (tokens * (tokens + 1) - first * (first + 1)) // 2
    if template == DENSE or not dense:
        return 1.0
    spared = 0
    for start, segment, sinks in images(table, first):
        at = torch.arange(max(first - start, 0), segment.tokens)
        # Tokens ahead of the image that aren't seen, then those of itself.
        spared += len(at) * (start - (0 if template == INTRA else len(sinks)))
        if template == SINK:
            spared += int((at // BLOCK - 1).clamp(min=0).sum()) * BLOCK
    return 1 - spared / dense
