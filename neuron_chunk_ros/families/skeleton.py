# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A model without weights: transformers' class on the meta device, to ask names and shapes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from neuron_chunk_ros.errors import ModelError, out_of_memory
from neuron_chunk_ros.families.base import Family


@contextlib.contextmanager
def described(family: str) -> Iterator[None]:
    """Raise ModelError for whatever transformers' checks raise while a config is built."""
    try:
        yield
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ModelError(f'config.json does not describe a {family} model: {reason}') from error


def skeleton(family: Family, config: dict):
    """Build the family's transformers model without allocating a weight.

    Raises ModelError where transformers refuses the config.
    """
    import torch
    from transformers import AutoModelForImageTextToText
    built = family.config(config)
    with described(family.name), torch.device('meta'):
        return AutoModelForImageTextToText.from_config(built)


def tensor_shapes(model) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every tensor a checkpoint must hold; tied copies are left out."""
    tied = set(model.all_tied_weights_keys)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
            if name not in tied}


def floating_tensors(model) -> set[str]:
    """Return the names of tensors that hold numbers to compute with, not indices."""
    return {name for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def tied_tensors(model) -> dict[str, str]:
    """Return name of a tied copy -> name of the tensor it shares."""
    return dict(model.all_tied_weights_keys)
