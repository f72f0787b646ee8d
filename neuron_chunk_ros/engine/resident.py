# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Building a model whose decoder stays on flash: what is resident, and what it takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.engine import attention
from neuron_chunk_ros.engine.drive import Drive
from neuron_chunk_ros.engine.flash_embedding import FlashEmbedding
from neuron_chunk_ros.engine.flash_linear import FlashGroup, replace_linears
from neuron_chunk_ros.engine.flash_products import GroupProducts
from neuron_chunk_ros.engine.rows import TORCH_TYPES, compute_dtype, held_dtype
from neuron_chunk_ros.errors import BundleError, ModelError
from neuron_chunk_ros.families import Family, family_for
from neuron_chunk_ros.families.skeleton import described, skeleton, tensor_shapes
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.safetensors_header import TensorEntry
from neuron_chunk_ros.storage.side_files import SideFiles
from neuron_chunk_ros.storage.strict_json import shown

_MOST_BUFFERS = 64 << 20
_LOAD_BYTES = 16 << 20  # read between two words on progress


def read_config(bundle: Bundle):
    """Return (config.json as a dict, the transformers config object).

    Raises BundleError for one that describes no model, or another one than the bundle holds.
    """
    files = SideFiles.of_bundle(bundle)
    raw = files.json('config.json')
    # Before anything is built: a model is made with all the layers that its config asks for.
    there = len(bundle.groups) + len(bundle.resident_tensors)
    for part in (raw, raw.get('text_config'), raw.get('vision_config')):
        for key in ('num_hidden_layers', 'depth'):
            layers = part.get(key, 0) if isinstance(part, dict) else 0
            if not isinstance(layers, int) or not 0 <= layers <= there:
                raise files.failure('config.json', f'{key} is {shown(layers)}, but the bundle '
                                                   f'has {there} weights')
    try:
        family = family_for(raw)
        config = family.config(raw)
    except ModelError as error:
        raise files.failure('config.json', str(error)) from error
    _check_shapes(bundle, files, family, raw)
    if family.name != bundle.family:
        raise files.failure('config.json', f'it is of a {family.name}, the bundle of a '
                                           f'{bundle.family}')
    return raw, config


def _check_shapes(bundle: Bundle, files: SideFiles, family: Family, raw: dict) -> None:
    """Hold what the config asks for against what the bundle has, before memory is taken for it."""
    try:
        model = skeleton(family, raw)
    except ModelError as error:
        raise files.failure('config.json', str(error)) from error
    # Buffers are computed, not loaded: a table of positions, say.
    nbytes = sum(buffer.nbytes for buffer in model.buffers())
    if nbytes > _MOST_BUFFERS:
        raise files.failure('config.json', f'the model it describes computes {nbytes >> 20} MiB '
                                           f'of buffers, {_MOST_BUFFERS >> 20} are allowed')
    shapes = tensor_shapes(model)
    for name, entry in bundle.resident_tensors.items():
        if name not in shapes:
            raise BundleError(f'{bundle.resident_file}: the model has no tensor {name}')
        if entry.shape != shapes[name]:
            raise files.failure('config.json', f'it asks for {name} of {list(shapes[name])}, the '
                                               f'bundle has {list(entry.shape)}')


def described_model(bundle: Bundle, config, **how):
    """Return transformers' model of a bundle's config. Raises BundleError where it refuses it."""
    try:
        with described(bundle.family):
            return AutoModelForImageTextToText.from_config(config, **how)
    except ModelError as error:
        raise SideFiles.of_bundle(bundle).failure('config.json', str(error)) from error


def build_model(bundle: Bundle, config, products: GroupProducts, device: str,
                on_progress: Callable[[float], None] | None = None, *, backend: str = 'auto',
                direct: str = 'auto', words: torch.Tensor | None = None,
                drive: Drive | None = None):
    """Build transformers' model with flash-backed decoder layers; `close_model` ends it.

    Nothing of the decoder's linear weights is ever allocated: modules are made without storage,
    the linear layers are replaced, and only then the resident tensors are read.

    :param on_progress: told the share that is loaded, 0 to 1.
    :param backend, direct: how the embedding table is read, see storage.reader.Reader.
    :param words, drive: what stands in for it where the drive fails, see FlashEmbedding.
    :return: (model, its flash groups).
    :raises BundleError: where the bundle does not fit its own config.
    """
    check_resident(bundle)
    dtype = compute_dtype(bundle.dtype, device)
    with init_empty_weights(include_buffers=False):
        model = described_model(bundle, config, dtype=dtype)
    attention.use(model.config.text_config)
    try:
        groups: list[FlashGroup] = replace_linears(model, bundle.multiplied, products)
        table = bundle.embedding
        if table is not None:
            embedding = FlashEmbedding(bundle, dtype, device, backend, direct, words, drive)
            _replace_embedding(model, table.members[0].name, embedding)
    except (AttributeError, ValueError) as error:
        raise BundleError(f'{bundle.path}: its groups do not fit its config.json ({error})'
                          ) from error
    try:
        _load(model, bundle, dtype, on_progress or (lambda share: None))
        if bundle.embedding is None and bundle.lm_head is None:
            model.tie_weights()
        _widen(model, dtype)
        empty = [name for name, p in model.named_parameters() if p.is_meta]
        if empty:
            raise BundleError(f'{bundle.resident_file}: tensor {empty[0]} is missing')
        model.to(device).eval().requires_grad_(False)
    except BaseException:
        close_model(model)
        raise
    return model, groups


def close_model(model) -> None:
    """Close what the model itself reads from; a second call does nothing."""
    if isinstance(embedding := model.get_input_embeddings(), FlashEmbedding):
        embedding.close()


def _replace_embedding(model, path: str, embedding: FlashEmbedding) -> None:
    parent, _, name = path.rpartition('.')
    parent = model.get_submodule(parent)
    had = getattr(parent, name)
    found = embedding.num_embeddings, embedding.embedding_dim
    if (had.num_embeddings, had.embedding_dim) != found:
        embedding.close()
        raise ValueError(f'{path}: the model wants {had.num_embeddings} x {had.embedding_dim}, '
                         f'the bundle holds {found[0]} x {found[1]}')
    setattr(parent, name, embedding)


def check_resident(bundle: Bundle) -> None:
    """Raise BundleError for a resident tensor of a type that isn't computed with."""
    for name, entry in bundle.resident_tensors.items():
        if entry.dtype not in TORCH_TYPES:
            raise BundleError(f'{bundle.resident_file}: tensor {name} is {entry.dtype}, which '
                              'is not computed with: convert the model again')


def resident_dtype(entry: TensorEntry, stored: str, compute: torch.dtype) -> torch.dtype:
    """Return the dtype in which a resident tensor is kept.

    Matrices, which are nearly all of it, in the narrower of the stored and the computing dtype;
    the rest (norms, biases, convolutions) in the one that is computed in.
    """
    dtype = TORCH_TYPES[entry.dtype]
    if not dtype.is_floating_point:
        return dtype
    return held_dtype(stored, compute) if len(entry.shape) == 2 else compute


class _NarrowLinear(torch.nn.Linear):
    """A linear layer kept narrower than what is computed in: widened a tile at a time."""

    _TILE = 512  # outputs

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs @ W + bias, in the inputs' dtype."""
        out = inputs.new_empty(*inputs.shape[:-1], self.out_features)
        for at in range(0, self.out_features, self._TILE):
            out[..., at:at + self._TILE] = inputs @ self.weight[at:at + self._TILE].to(
                inputs.dtype).t()
        return out if self.bias is None else out + self.bias


def _widen(model, dtype: torch.dtype) -> None:
    """Let matrices that are kept narrower than `dtype` work with it."""
    for module in model.modules():
        weight = getattr(module, 'weight', None)
        if not isinstance(weight, torch.Tensor) or weight.dtype == dtype:
            continue
        if type(module) is torch.nn.Linear:
            module.__class__ = _NarrowLinear
        elif isinstance(module, torch.nn.Embedding):
            module.register_forward_hook(lambda module, args, out: out.to(dtype))
    # Matrices that are used in any other way.
    for module in model.modules():
        if not isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            for parameter in module.parameters(recurse=False):
                if parameter.is_floating_point():
                    parameter.data = parameter.data.to(dtype)


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
            tensor = torch.empty(entry.shape, dtype=TORCH_TYPES[entry.dtype])
            target = memoryview(tensor.flatten().view(torch.uint8).numpy())
            file.seek(entry.begin)
            while target:
                got = file.readinto(target[:_LOAD_BYTES])
                if not got:
                    raise BundleError(f'{bundle.resident_file}: truncated in tensor {name}')
                target = target[got:]
                done += got
                on_progress(done / total)
            state[name] = tensor.to(resident_dtype(entry, bundle.dtype, dtype))
    model.load_state_dict(state, strict=False, assign=True)
