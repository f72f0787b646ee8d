# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a session takes of memory, declared before anything is loaded, and how it is divided."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from neuron_chunk_ros.engine.bases import base_bytes, slot_bytes, to_stream
from neuron_chunk_ros.engine.flash_embedding import embedding_bytes
from neuron_chunk_ros.engine.flash_products import ring_size
from neuron_chunk_ros.engine.heads import head_bytes, split
from neuron_chunk_ros.engine.kv_cache import kv_shape
from neuron_chunk_ros.engine.products import TILE_BYTES
from neuron_chunk_ros.engine.resident import check_resident, resident_dtype
from neuron_chunk_ros.errors import MemoryBudgetError
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.calibration import KINDS, tensor_name
from neuron_chunk_ros.storage.layout import LM_HEAD
from neuron_chunk_ros.storage.safetensors_header import TensorEntry

MIB = 1 << 20
LARGEST_STEP = 1024  # tokens; activations are declared for so many at once
# What malloc keeps of what was freed, pictures on their way to pixels, kernels, code loaded late.
_ALLOCATOR = 144 * MIB


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes a session takes for as long as it is open, beside Python and its libraries."""

    resident: int
    buffers: int
    kv_cache: int
    activations: int = 0  # of the largest step
    heads: int = 0        # rows of the decoder and the LM head that stay in memory
    key_copies: int = 0   # of a stream from several cameras
    bases: int = 0        # of rows in two parts
    head_rows: Mapping[str, int] = field(default_factory=dict)  # by group
    coarse_words: bool = False  # whether words are among the bases, for a drive that fails
    streamed: tuple[str, ...] = ()  # groups whose bases are read for each step; 2 are in buffers

    @property
    def total(self) -> int:
        """All of it."""
        return (self.resident + self.buffers + self.kv_cache + self.activations + self.heads
                + self.key_copies + self.bases)

    def check(self, budget_mb: int | None) -> None:
        """Raise MemoryBudgetError, with the numbers, where the budget is too small."""
        if budget_mb and self.total > budget_mb * MIB:
            held = f'{self.bases / MIB:.0f} bases of rows + ' if self.bases else ''
            slots = ' (two of them for bases of rows)' if self.streamed else ''
            raise MemoryBudgetError(
                f'memory_budget_mb is {budget_mb}, but {-(-self.total // MIB)} MB are needed: '
                f'{self.resident / MIB:.0f} resident weights + {held}'
                f'{self.buffers / MIB:.0f} read buffers{slots} + '
                f'{self.kv_cache / MIB:.0f} KV cache + {self.activations / MIB:.0f} activations + '
                f'{self.heads / MIB:.0f} heads + {self.key_copies / MIB:.0f} key copies; '
                'raise the budget, or lower max_context'
                + (', or convert with a smaller --base or none' if self.bases or self.streamed
                   else ''))


def plan_memory(bundle: Bundle, config, *, context: int, dtype: torch.dtype, piece_bytes: int,
                slack: int, budget_mb: int | None, head_mb: float | None,
                cameras: int = 1, faults: bool = True) -> MemoryPlan:
    """Divide the budget: what a session needs, and of what is left, heads.

    :param dtype: computed in.
    :param slack: bytes that a read may need beside what is wanted.
    :param cameras: of the stream there is to be; several need copies of keys.
    :param head_mb: for heads; None: what the budget leaves, none without a budget.
    :param faults: whether words are to be held for a drive that fails, where there is room.
    :raises MemoryBudgetError: where the budget is too small without any head.
    """
    check_resident(bundle)
    plan = MemoryPlan(
        resident=sum(_held(entry, bundle.dtype, dtype)
                     for entry in bundle.resident_tensors.values()),
        buffers=(_huge(ring_size(bundle, slack, piece_bytes)[1])
                 + embedding_bytes(bundle.embedding, dtype)),
        kv_cache=kv_bytes(config.text_config, context, dtype),
        activations=activation_bytes(bundle, config, min(context, LARGEST_STEP), dtype))
    if cameras > 1:
        plan = replace(plan, key_copies=plan.kv_cache // 2)
    with_words = replace(plan, bases=_huge(base_bytes(bundle)), coarse_words=True)
    plan = replace(plan, bases=_huge(base_bytes(bundle, faults=False)))
    if faults and (not budget_mb or with_words.total <= budget_mb * MIB):
        plan = with_words
    elif budget_mb and plan.total > budget_mb * MIB and plan.bases:
        streamed = to_stream(bundle, budget_mb * MIB - (plan.total - plan.bases) - 4 * MIB)
        plan = replace(plan, bases=_huge(base_bytes(bundle, False, streamed)), streamed=streamed,
                       buffers=plan.buffers + _huge(slot_bytes(bundle, streamed)))
    plan.check(budget_mb)
    left = budget_mb * MIB - plan.total if budget_mb else 0
    wanted = int(head_mb * MIB) if head_mb is not None else (
        # whole huge pages, and each head begins on a page
        max(0, left // (2 * MIB) * (2 * MIB) - 4096 * len(bundle.multiplied)))
    if budget_mb:
        rows = split(bundle.multiplied, wanted, dtype, _counts(bundle))
    else:  # the LM head stays in memory, as it does in any other engine
        rows = split(bundle.groups, wanted, dtype, _counts(bundle))
        if bundle.lm_head is not None:
            rows[LM_HEAD] = bundle.lm_head.rows
    plan = replace(plan, heads=_huge(head_bytes(bundle.multiplied, rows, dtype)), head_rows=rows)
    plan.check(budget_mb)
    return plan


def _counts(bundle: Bundle) -> dict[str, np.ndarray] | None:
    """Return how many samples wanted each row, by group; None where none were asked."""
    arrays = bundle.neurons()
    if arrays is None:
        return None
    # Frames choose as visual tokens do, words of the answer as text does: both count alike.
    counts = {name: sum(arrays[tensor_name(name, kind, 'count')] for kind in KINDS)
              for name in bundle.groups}
    if bundle.lm_head is not None:  # wanted by each word, by no frame
        counts[LM_HEAD] = np.full(bundle.lm_head.rows, bundle.calibration['samples'])
    return counts


def kv_bytes(text_config, context: int, dtype: torch.dtype) -> int:
    """Return the KV cache's size for `context` tokens."""
    layers, heads, head = kv_shape(text_config)
    return 2 * layers * heads * head * dtype.itemsize * context


def activation_bytes(bundle: Bundle, config, tokens: int, dtype: torch.dtype) -> int:
    """Return what a step of so many tokens takes at most for a moment.

    Of the decoder: each group's product, the inputs of the widest in two orders, the gated
    product, normalised and rotated copies in float32; of the vision tower: see tower_bytes.
    """
    groups = bundle.groups.values()
    columns = sum({group.columns for group in groups})
    rows = max(group.rows for group in groups)
    hidden = config.text_config.hidden_size
    decoder = tokens * (dtype.itemsize * (columns + 3 * rows + 6 * hidden) + 4 * 4 * hidden)
    # a CPU's product packs the weights it is given, or has them widened in tiles
    packed = (max(group.rows * group.columns for group in groups) * dtype.itemsize
              if dtype == torch.bfloat16 else TILE_BYTES)
    words = 3 * 4 * config.text_config.vocab_size
    return max(decoder + min(packed, 64 * MIB), tower_bytes(config.vision_config, tokens, dtype)
               ) + words + _ALLOCATOR


def tower_bytes(vision, tokens: int, dtype: torch.dtype) -> int:
    """Return what the vision tower takes for a moment: all pictures of a step go through at once.

    Of a patch: copies of its state, queries, keys, values, and what is between the two layers of
    its MLP, of which some activations make more copies.
    """
    width = getattr(vision, 'embed_dim', None) or getattr(vision, 'hidden_size', 0)
    inner = (getattr(vision, 'intermediate_size', None)
             or int(width * getattr(vision, 'mlp_ratio', 4)))
    one = (getattr(vision, 'image_size', 448) // getattr(vision, 'patch_size', 14)) ** 2
    # Patches are merged by fours, or a little fewer.
    patches = max(one, tokens * getattr(vision, 'spatial_merge_size', 2) ** 2)
    copies = 4.5 if getattr(vision, 'hidden_act', '') == 'quick_gelu' else 2.5
    return int(patches * dtype.itemsize * (8 * width + copies * inner))


def picture_bytes(config, patches: int, values: int) -> int:
    """Return what the pictures of one question take: their pixels and the vision tower's.

    :param patches: of all of them.
    :param values: of each patch.
    """
    vision = config.vision_config
    tokens = patches // getattr(vision, 'spatial_merge_size', 2) ** 2
    # each picture's own, all in one tensor, and that in the model's type and order
    return patches * values * 4 * 3 + tower_bytes(vision, tokens, torch.float32)


def _held(entry: TensorEntry, stored: str, compute: torch.dtype) -> int:
    """Return what a resident tensor takes in memory."""
    return math.prod(entry.shape) * resident_dtype(entry, stored, compute).itemsize


def _huge(nbytes: int) -> int:
    """Return what a buffer of huge pages takes."""
    return -(-nbytes // (2 * MIB)) * 2 * MIB if nbytes else 0
