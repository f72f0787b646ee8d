# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Building a model whose decoder stays on flash: what is resident, and what it takes."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.engine.flash_linear import FlashGroup, replace_linears
from neuron_chunk_ros.engine.flash_products import GroupProducts
from neuron_chunk_ros.engine.rows import compute_dtype
from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.families import family_for
from neuron_chunk_ros.storage.bundle import Bundle

_LOAD_BYTES = 16 << 20  # read between two words on progress
_SAFETENSORS_TYPES = {'BF16': torch.bfloat16, 'F16': torch.float16, 'F32': torch.float32,
                      'I64': torch.int64, 'I32': torch.int32, 'U8': torch.uint8,
                      'BOOL': torch.bool}


def read_config(bundle: Bundle):
    """Return (config.json as a dict, the transformers config object)."""
    raw = json.loads((bundle.path / 'config.json').read_text())
    return raw, family_for(raw).config(raw)


def build_model(bundle: Bundle, config, products: GroupProducts, device: str,
                on_progress: Callable[[float], None] | None = None):
    """Build transformers' model with flash-backed decoder layers.

    Nothing of the decoder's linear weights is ever allocated: modules are made without storage,
    the linear layers are replaced, and only then the resident tensors are read.

    :param on_progress: told the share that is loaded, 0 to 1.
    :return: (model, its flash groups).
    :raises BundleError: where the bundle does not fit its own config.
    """
    dtype = compute_dtype(bundle.dtype, device)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    try:
        groups: list[FlashGroup] = replace_linears(model, bundle.groups, products)
    except (AttributeError, ValueError) as error:
        raise BundleError(f'{bundle.path}: its groups do not fit its config.json ({error})'
                          ) from error
    _load(model, bundle, dtype, on_progress or (lambda share: None))
    model.tie_weights()
    empty = [name for name, p in model.named_parameters() if p.is_meta]
    if empty:
        raise BundleError(f'{bundle.resident_file}: tensor {empty[0]} is missing')
    model.to(device).eval().requires_grad_(False)
    return model, groups


def _load(model, bundle: Bundle, dtype: torch.dtype, on_progress: Callable) -> None:
    """Read the resident tensors into memory of their own, one at a time.

    Not by memory map: mapped weights leave memory under pressure and come back from flash at
    each use, which is the very thing resident weights are meant to be spared.
    """
    state, done = {}, 0
    total = sum(entry.end - entry.begin for entry in bundle.resident_tensors.values())
    on_progress(0.0)
    with open(bundle.resident_file, 'rb', buffering=0) as file:
        for name, entry in bundle.resident_tensors.items():
            tensor = torch.empty(entry.shape, dtype=_SAFETENSORS_TYPES[entry.dtype])
            target = memoryview(tensor.flatten().view(torch.uint8).numpy())
            file.seek(entry.begin)
            while target:
                got = file.readinto(target[:_LOAD_BYTES])
                if not got:
                    raise BundleError(f'{bundle.resident_file}: truncated in tensor {name}')
                target = target[got:]
                done += got
                on_progress(done / total)
            state[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    result = model.load_state_dict(state, strict=False, assign=True)
    if result.unexpected_keys:
        raise BundleError(f'{bundle.resident_file}: the model has no tensor '
                          f'{result.unexpected_keys[0]}')
