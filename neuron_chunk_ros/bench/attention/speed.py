# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Attention by class against torch's own causal one, measured in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from neuron_chunk_ros.attention.regrouping import Regrouping
from neuron_chunk_ros.attention.segments import Segment, SegmentTable
from neuron_chunk_ros.attention.templates import INTRA_SINK, density
from neuron_chunk_ros.bench.timing import in_turns
from neuron_chunk_ros.engine.rows import bfloat16_is_fast

HEADS, KV_HEADS, WIDTH = 14, 2, 64   # Qwen2-0.5B's
_LEADING, _QUESTION = 14, 16
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SpeedOptions:
    """What is timed."""

    images: tuple[int, ...] = (4, 8, 16)
    tokens: tuple[int, ...] = (196, 256)
    long: int = 36_000             # tokens, of images of 196; 0: not tried
    views: tuple[int, ...] = (1, 4, 8, 16)   # frames in view when another one is appended
    repeats: int = 15
    seed: int = 7


@dataclass(frozen=True)
class Timed:
    """One case."""

    what: str          # 'prompt' or 'append'
    images: int
    tokens: int        # of an image
    heads: str         # whose classes: 'Intra-Image+Sink', or 'tabletop'
    density: float
    dense: np.ndarray  # float64 [repeats] seconds
    ours: np.ndarray


def mixture(heads: Sequence[int]) -> list[int]:
    """Return classes for HEADS heads in the proportions of a table's."""
    ordered = sorted(heads)
    return [ordered[int((k + 0.5) / HEADS * len(ordered))] for k in range(HEADS)]


def measure(options: SpeedOptions, table: Sequence[int], progress: Progress) -> list[Timed]:
    """Time all cases; `table`: the classes of all heads of a characterised model."""
    cases = [('prompt', images, tokens, options.repeats) for tokens in options.tokens
             for images in options.images]
    if options.long:
        cases.append(('prompt', options.long // 196, 196, max(1, options.repeats // 7)))
    cases += [('append', images, 196, options.repeats) for images in options.views]
    found = []
    for number, (what, images, tokens, repeats) in enumerate(cases):
        for label, classes in (('Intra-Image+Sink', [INTRA_SINK] * HEADS),
                               ('tabletop', mixture(table))):
            found.append(_case(what, images, tokens, label, classes, repeats, options.seed))
        progress('attention', number + 1, len(cases))
    return found


def _case(what: str, images: int, tokens: int, label: str, classes: list[int], repeats: int,
          seed: int) -> Timed:
    segments = SegmentTable([Segment(_LEADING), *[Segment(tokens, True, (tokens - 1,))] * images])
    if what == 'prompt':
        segments.append([Segment(_QUESTION)])
        first = 0
    else:
        first = segments.tokens
        segments.append([Segment(tokens, True, (tokens - 1,))])
    total = segments.tokens
    dtype = torch.bfloat16 if bfloat16_is_fast() else torch.float32
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(1, HEADS, total - first, WIDTH, generator=generator).to(dtype)
    key, value = (torch.randn(1, KV_HEADS, total, WIDTH, generator=generator).to(dtype)
                  for _ in range(2))
    # As transformers hands it to torch: nothing for a whole prompt, a mask behind what is there.
    mask = None if not first else torch.ones(total - first, total, dtype=torch.bool).tril(first)

    def dense(_: int) -> float:
        started = time.perf_counter()
        functional.scaled_dot_product_attention(query, key, value, attn_mask=mask,
                                                is_causal=mask is None, enable_gqa=True)
        return time.perf_counter() - started

    regrouping = Regrouping(segments, first)  # one for all layers of a pass

    def ours(_: int) -> float:
        started = time.perf_counter()
        regrouping.attend(query, key, value, classes)
        return time.perf_counter() - started

    with torch.inference_mode():
        seconds, _ = in_turns([dense, ours], repeats, np.random.default_rng(seed), lambda: None)
    kept = float(np.mean([density(segments, kind, first) for kind in classes]))
    return Timed(what, images, tokens, label, kept, seconds[0], seconds[1])
