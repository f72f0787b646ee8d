# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every integer operation of a model with its constants and, for one sample, what went in and out.

On disk: integers.safetensors (constants), golden.safetensors (vectors), manifest.json.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from neuron_chunk_ros import __version__
from neuron_chunk_ros.compress.integer.model import IntegerModel
from neuron_chunk_ros.compress.recipe import Recipe
from neuron_chunk_ros.errors import RecipeError
from neuron_chunk_ros.storage.atomic import write_file
from neuron_chunk_ros.storage.safetensors_header import plan_header, read_header
from neuron_chunk_ros.storage.strict_json import parse_object

FORMAT, VERSION = 'neuron-chunk-integers', 1
CONSTANTS, VECTORS, MANIFEST = 'integers.safetensors', 'golden.safetensors', 'manifest.json'
_CONSTANT = {'weight', 'bias', 'multiplier', 'score_multiplier', 'table', 'coarse', 'fine'}
_TAGS = {'int8': 'I8', 'int16': 'I16', 'int32': 'I32', 'int64': 'I64', 'bool': 'BOOL'}
_MOST_VECTORS = 1 << 16  # numbers of a golden tensor of tokens

FIELDS = {
    'scale': 'what a code of the output stands for; input_scale and so on likewise',
    'bits': 'signed bits that the output is clamped to; 0: it is not',
    'multiplier': 'an integer; a code times it, plus half of 2^shift, shifted right by shift',
    'shift': 'see multiplier; of a norm the fraction of its multipliers',
    'product': 'sums = input @ weight^T + bias; output = clamp(sums * multiplier, shifted)',
    'convolution': 'as product, the sums those of a convolution of these strides',
    'rescale': 'output = clamp(input * multiplier, shifted): another grid',
    'add': 'output = left + right, on one grid', 'multiply': 'output = left * right',
    'table': 'output = table[input + 2^(input_bits - 1)]',
    'embedding': 'output = weight[input]',
    'norm': 'c = clamp(input * width - sum(input), shifted by input_shift, centred_bits), the sum '
            'only where centred; root = floor(sqrt(256 (sum(c^2) + floor))); output = '
            'clamp(floor(((c * multiplier >> shift - 8) + 128 root) / (256 root)) + bias)',
    'attention': 'scores = query @ key^T; below = largest visible - scores, each times '
                 'score_multiplier, shifted; weights = floor((e 2^probability_bits + half) / '
                 'sum e), e = coarse[below >> fine_bits] * fine[rest] >> table_bits where '
                 'visible, else 0; output = clamp(weights @ value * multiplier, shifted)',
}


@dataclass
class Operation:
    """One integer operation."""

    name: str
    kind: str
    numbers: dict
    constants: dict[str, np.ndarray]
    vectors: dict[str, np.ndarray]  # of the sample: what went in, sums, what came out


def record(model: IntegerModel, run: Callable[[torch.nn.Module], object]) -> list[Operation]:
    """Run a sample on the integer path and return what happened, in order.

    A module that is called several times is recorded the first time.
    """
    found: dict[str, Operation] = {}

    def note(name: str, kind: str, tensors: dict, numbers: dict) -> None:
        if name not in found:
            arrays = {key: _array(value) for key, value in tensors.items()}
            vectors = {key: value for key, value in arrays.items() if key not in _CONSTANT}
            found[name] = Operation(
                name, kind, numbers,
                {key: value for key, value in arrays.items() if key in _CONSTANT},
                _fewer(kind, vectors))

    model.paths.recording(note)
    try:
        with torch.no_grad(), model.on('integer') as converted:
            run(converted)
    finally:
        model.paths.recording(None)
    return list(found.values())


def write(folder: Path, operations: list[Operation], model: IntegerModel, recipe: Recipe,
          source: str) -> None:
    """Write constants, vectors and, last, the manifest, which has their checksums."""
    files = {}
    for file, part in ((CONSTANTS, 'constants'), (VECTORS, 'vectors')):
        arrays = {f'{one.name}/{key}': value for one in operations
                  for key, value in getattr(one, part).items()}
        files[file] = _write_tensors(folder / file, arrays)
    manifest = {
        'format': FORMAT, 'version': VERSION, 'tool': f'neuron_chunk_ros {__version__}',
        'source': source, 'recipe': recipe.name, 'recipe_text': recipe.text,
        'word': recipe.fixed_point.word, 'fraction': recipe.fixed_point.fraction,
        'fields': FIELDS, 'in_float': dict(model.paths.in_float), 'left': model.left,
        'folded_norms': model.folded, 'files': files,
        'operations': [{'name': one.name, 'kind': one.kind, **one.numbers,
                        'constants': {key: list(value.shape)
                                      for key, value in one.constants.items()},
                        'vectors': {key: list(value.shape)
                                    for key, value in one.vectors.items()}}
                       for one in operations]}
    write_file(folder / MANIFEST, [(json.dumps(manifest, indent=1) + '\n').encode()])


def load(folder: Path) -> tuple[list[Operation], dict]:
    """Read what `write` wrote, checked; return the operations and the manifest.

    Raises RecipeError where anything is missing, damaged or not what the manifest says.
    """
    try:
        manifest = parse_object((folder / MANIFEST).read_bytes())
        if manifest.get('format') != FORMAT or manifest.get('version') != VERSION:
            raise ValueError(f'format {manifest.get("format")!r} of version '
                             f'{manifest.get("version")!r} is not one this release reads')
        tensors = [_read_tensors(folder / file, manifest['files'][file])
                   for file in (CONSTANTS, VECTORS)]
        operations = []
        for entry in manifest['operations']:
            entry = dict(entry)
            name, kind = entry.pop('name'), entry.pop('kind')
            constants, vectors = (
                {key: arrays[f'{name}/{key}'].reshape(shape)
                 for key, shape in entry.pop(part).items()}
                for part, arrays in zip(('constants', 'vectors'), tensors, strict=True))
            operations.append(Operation(name, kind, entry, constants, vectors))
    except FileNotFoundError as error:
        raise RecipeError(f'{error.filename} is missing') from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f'{folder}: {MANIFEST} or a file of it is damaged ({error})') from error
    return operations, manifest


def file_name(operation: str) -> str:
    """Return an operation's name as a part of file names and identifiers."""
    return re.sub(r'\W', '_', operation)


def _array(tensor: torch.Tensor) -> np.ndarray:
    """Return integers in the narrowest type that holds them."""
    values = tensor.detach().numpy()
    if values.dtype == bool:
        return values
    values = values.astype(np.int64)
    least, largest = (int(values.min()), int(values.max())) if values.size else (0, 0)
    narrow = next(kind for kind in (np.int8, np.int16, np.int32, np.int64)
                  if np.iinfo(kind).min <= least and largest <= np.iinfo(kind).max)
    return values.astype(narrow)


def _fewer(kind: str, vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keep some tokens of what works token by token, one image or prompt of the rest."""
    if kind in ('attention', 'convolution'):
        return {key: value[:1] if value.ndim > 3 else value for key, value in vectors.items()}
    if kind in ('add', 'multiply') and len({v.shape for v in vectors.values()}) > 1:
        vectors = dict(zip(vectors, np.broadcast_arrays(*vectors.values()), strict=True))
    if kind == 'embedding':
        return {'input': vectors['input'].reshape(-1)[:16],
                'output': vectors['output'].reshape(-1, vectors['output'].shape[-1])[:16]}
    flat = {key: value.reshape(-1, value.shape[-1]) for key, value in vectors.items()}
    some = max(1, min(_MOST_VECTORS // max(v.shape[1] for v in flat.values()), 16))
    return {key: np.ascontiguousarray(value[:some]) for key, value in flat.items()}


def _write_tensors(path: Path, arrays: dict[str, np.ndarray]) -> dict:
    ordered = sorted(arrays.items(), key=lambda pair: -pair[1].itemsize)
    header, _ = plan_header(((name, _TAGS[value.dtype.name], value.shape)
                             for name, value in ordered), align_each=False)
    digest = hashlib.sha256()

    def pieces():
        for piece in (header, *(np.ascontiguousarray(value).tobytes() for _, value in ordered)):
            digest.update(piece)
            yield piece

    size = write_file(path, pieces())
    return {'bytes': size, 'sha256': digest.hexdigest()}


def _read_tensors(path: Path, told: dict) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    if len(data) != told['bytes'] or hashlib.sha256(data).hexdigest() != told['sha256']:
        raise RecipeError(f'{path}: checksum differs, the data is damaged')
    kinds = {tag: np.dtype(name) for name, tag in _TAGS.items()}
    return {name: np.frombuffer(data, kinds[entry.dtype], entry.nbytes // kinds[
        entry.dtype].itemsize, entry.begin).reshape(entry.shape)
        for name, entry in read_header(path, RecipeError).items()}
