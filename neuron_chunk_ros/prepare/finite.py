# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Weights that are no numbers (NaN, infinity): counted before anything is written.

A model with one may answer nothing but nonsense, with success; it is damaged, or was cut off in
training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.prepare.checkpoint import Checkpoint, Stored, read_pieces
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.row_format import by_tag
from neuron_chunk_ros.storage.source_groups import SourceGroups

# What an exponent of ones looks like; only infinity and NaN have one.
_EXPONENTS = {'BF16': np.uint16(0x7F80), 'F16': np.uint16(0x7C00), 'F32': np.uint32(0x7F800000)}

_TAGS = {made.name: tag for tag in _EXPONENTS if (made := by_tag(tag))}

Pieces = Iterable[tuple[str, str, np.ndarray]]  # of tensors: name, safetensors' type, bytes


def count_not_finite(raw: np.ndarray, tag: str) -> int:
    """Return how many values of an array, of whatever numpy type, are NaN or infinite.

    :param tag: what safetensors calls the values; of others than floats none is.
    """
    mask = _EXPONENTS.get(tag)
    if mask is None:
        return 0
    bits = raw.reshape(-1).view(mask.dtype)
    return int(np.count_nonzero((bits & mask) == mask))


def check_checkpoint(checkpoint: Checkpoint, tell: Callable[[int], None] = lambda done: None
                     ) -> None:
    """Raise ModelError where a checkpoint's weights are not all finite; `tell`: of bytes read."""
    _check(str(checkpoint.folder), _of_checkpoint(checkpoint, tell))


def check_bundle(bundle: Bundle) -> None:
    """Raise ModelError where a bundle's weights are not all finite; rows that are packed are."""
    _check(str(bundle.path), _of_bundle(bundle))


def _of_checkpoint(checkpoint: Checkpoint, tell: Callable[[int], None]) -> Iterator:
    for name, stored in checkpoint.tensors.items():
        for part in _of_tensor(name, stored):
            yield part
            tell(part[2].nbytes)


def _of_bundle(bundle: Bundle) -> Iterator:
    with SourceGroups(bundle) as sources:
        for group in bundle.stored.values():
            if group.dtype in _TAGS:
                for rows in sources.rows(group):
                    yield f'group {group.name}', _TAGS[group.dtype], rows
    for name, entry in bundle.resident_tensors.items():
        yield from _of_tensor(name, Stored(bundle.resident_file, entry))


def _of_tensor(name: str, stored: Stored) -> Iterator:
    made = by_tag(stored.entry.dtype)
    for piece in read_pieces(stored, made.item_bytes) if made else ():
        yield name, stored.entry.dtype, piece


def _check(where: str, pieces: Pieces) -> None:
    total, first = 0, ''
    for name, tag, raw in pieces:
        found = count_not_finite(raw, tag)
        first = first or (name if found else '')
        total += found
    if total:
        raise ModelError(
            f'{where}: {total} weights are NaN or infinite, the first in {first}: the model is '
            'damaged; take it anew, or keep them with --allow-non-finite')
