# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Attention by class against torch's own causal one, measured in turns."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from neuron_chunk_ros.attention.regrouping import Regrouping
from neuron_chunk_ros.attention.segments import Segment, SegmentTable
from neuron_chunk_ros.attention.templates import INTRA_SINK, density
from neuron_chunk_ros.bench.timing import in_turns
from neuron_chunk_ros.engine.rows import bfloat16_is_fast
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.families import PromptPart

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

    what: str          # 'prompt' or 'append', attention alone; or 'whole prefill'
    images: int
    tokens: int        # of an image
    heads: str         # whose classes: 'Intra-Image+Sink', or 'tabletop'
    density: float
    dense: np.ndarray  # float64 [repeats] seconds
    ours: np.ndarray


def mixture(heads: Sequence[int], number: int = HEADS) -> list[int]:
    """Return classes for so many heads in the proportions of a table's."""
    ordered = sorted(heads)
    return [ordered[int((k + 0.5) / number * len(ordered))] for k in range(number)]


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


def prefill(bundle: Path, options: SpeedOptions, table: Sequence[int], progress: Progress
            ) -> list[Timed]:
    """Time whole passes of a bundle's decoder over prompts with images, everything held.

    Of images there are the tokens, not the pixels: the vision tower is the same for all.
    """
    found, held = [], 1 << 20
    for number, images in enumerate(options.images):
        segments = (Segment(_LEADING), *[Segment(196, True, (195,))] * images, Segment(_QUESTION))
        tokens = sum(one.tokens for one in segments)
        with Session.open(bundle, head_mb=held, drafts=False, max_context=tokens + 8) as session:
            text = session.config.text_config
            ids = torch.randint(0, text.vocab_size, (1, tokens),
                                generator=torch.Generator().manual_seed(options.seed))
            piece = PromptPart(ids, segments=segments)
            heads = text.num_attention_heads
            mixed = mixture(table, heads)
            ways = [None, [INTRA_SINK] * heads, mixed]
            tasks = [functools.partial(_pass, session, piece, way) for way in ways]
            with torch.inference_mode():
                seconds, _ = in_turns(tasks, max(3, options.repeats // 3),
                                      np.random.default_rng(options.seed), lambda: None)
        table_of = SegmentTable(segments)
        for label, way, took in (('Intra-Image+Sink', ways[1], seconds[1]),
                                 ('tabletop', mixed, seconds[2])):
            kept = float(np.mean([density(table_of, kind) for kind in way]))
            found.append(Timed('whole prefill', images, 196, label, kept, seconds[0], took))
        progress('whole prefill', number + 1, len(options.images))
    return found


def _pass(session: Session, piece: PromptPart, classes: list[int] | None, _: int) -> float:
    """Return the seconds of a prompt's pass; `classes`: of every layer's heads, None for dense."""
    layers = session.config.text_config.num_hidden_layers
    session._attending.classes = None if classes is None else [classes] * layers
    session.configure(attention='dense' if classes is None else 'blindsight')
    cache = session._memory.cache(0)
    with session._runner.work(None, None, None):
        _, bill, _ = session._runner.step('prefill', piece, cache, 0, logits=1)
    return bill.seconds


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
