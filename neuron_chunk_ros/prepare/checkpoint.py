# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Reading an ordinary Hugging Face model folder: config and safetensors shards, checked.

Tensors are read by plain file reads in pieces, not through a memory map: mapped pages would count
as this process's memory, and converting must stay small on the robot.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.families import Family, family_for
from neuron_chunk_ros.families.skeleton import (
    floating_tensors,
    skeleton,
    tensor_shapes,
    tied_tensors,
)
from neuron_chunk_ros.plain_file import read_plain
from neuron_chunk_ros.storage.row_format import by_tag
from neuron_chunk_ros.storage.safetensors_header import (
    TensorEntry,
    read_header,
)
from neuron_chunk_ros.storage.strict_json import parse_object, shown

PIECE_BYTES = 4 << 20
_MAX_JSON_BYTES = 64 << 20
_AT_ONCE = 1 << 20  # values
_OTHERS = (
    ('adapter_config.json', 'a LoRA adapter, which is no whole model',
     'merge it into its base model first (peft: merge_and_unload, then save_pretrained)'),
    ('*.gguf', 'weights for llama.cpp', 'take the Hugging Face model it was made from'),
    ('*.onnx', 'an ONNX export', 'take the Hugging Face model it was made from'),
    ('model_index.json', 'a diffusers pipeline', 'give the folder of a vision-language model'),
)
_QUANTISED = ': it is quantised, take the model it was made from'
_CURES = {'F64': ': save it anew with transformers, from_pretrained(DIR, dtype=torch.float32)'
                 '.save_pretrained(NEW_DIR)'}
_PICKLED = ('.bin', '.pt', '.pth', '.ckpt')


@dataclass(frozen=True)
class Stored:
    """A tensor of the checkpoint: its file and its place there."""

    path: Path
    entry: TensorEntry


class Checkpoint:
    """A model folder whose every tensor is known to be there with the shape its config says.

    plans: the decoder's groups in this layout; tensors: module path name -> Stored, without tied
    copies; ignored: names the architecture does not know, which transformers would ignore too.
    Raises ModelError, one line each, for everything that keeps the folder from being used.
    """

    def __init__(self, folder: Path, layout: str = 'bundled'):
        self.folder = Path(folder)
        refuse_other_formats(self.folder)
        self.config = read_json(self.folder / 'config.json', 'a model folder has one')
        if any(isinstance(part, dict) and part.get('quantization_config') for part in (
                self.config, *(self.config.get(key) for key in ('text_config', 'vision_config')))):
            raise ModelError(f'{self.folder}: the checkpoint is quantised, only bfloat16, float16 '
                             'and float32 weights can be converted: take the model it was made '
                             'from')
        try:
            self.family: Family = family_for(self.config)
            self.plans = self.family.groups(self.config, layout)
            model = skeleton(self.family, self.config)
        except ModelError as error:
            raise ModelError(f'{self.folder}: {error}') from error
        found = self._by_module_path(self._stored())
        floating = floating_tensors(model)
        self._tied = tied_tensors(model)
        self._drop_tied(found, self._tied)
        shapes = tensor_shapes(model)
        for name, shape in shapes.items():
            if name not in found:
                raise ModelError(f'{self.folder}: tensor {name} is missing')
            stored = found[name]
            if stored.entry.shape != shape:
                raise ModelError(f'{stored.path}: tensor {name} has shape '
                                 f'{list(stored.entry.shape)}, config.json asks for {list(shape)}')
            if by_tag(stored.entry.dtype) is None and name in floating:
                raise ModelError(
                    f'{stored.path}: tensor {name} is {stored.entry.dtype}, only BF16, F16 and '
                    f'F32 can be converted{_CURES.get(stored.entry.dtype, _QUANTISED)}')
        self.tensors = {name: found[name] for name in shapes}
        self.ignored = sorted(found.keys() - shapes.keys())

    def weight(self, module: str) -> tuple[Stored, str]:
        """Return a linear layer's or embedding's weight and its name; of tied ones the source."""
        name = f'{module}.weight'
        name = self._tied.get(name, name)
        return self.tensors[name], name

    def _stored(self) -> dict[str, Stored]:
        """Return all tensors under the names the files use."""
        index = self.folder / 'model.safetensors.index.json'
        single = self.folder / 'model.safetensors'
        if single.exists():  # transformers prefers it, too
            return {name: Stored(single, entry)
                    for name, entry in read_header(single, ModelError).items()}
        if index.exists():
            return self._sharded(index)
        names = sorted(entry.name for entry in os.scandir(self.folder))
        pickled = [name for name in names if name.endswith(_PICKLED)]
        if pickled:
            raise ModelError(
                f'{self.folder}: only pickled weights ({pickled[0]}), which can run code when '
                f'opened; save them as safetensors with transformers: '
                f'AutoModelForImageTextToText.from_pretrained(DIR).save_pretrained(NEW_DIR)')
        raise ModelError(f'{self.folder}: no weights, neither model.safetensors nor '
                         f'model.safetensors.index.json')

    def _sharded(self, index: Path) -> dict[str, Stored]:
        weights = read_json(index, '').get('weight_map')
        if not isinstance(weights, dict) or not weights:
            raise ModelError(f'{index}: weight_map is missing or empty')
        headers: dict[str, dict[str, TensorEntry]] = {}
        stored = {}
        for name, shard in weights.items():
            if (not isinstance(shard, str) or shard != os.path.basename(shard)
                    or not shard.endswith('.safetensors')):
                raise ModelError(f'{index}: {shown(shard)} is not the name of a shard')
            path = self.folder / shard
            if shard not in headers:
                if not path.exists():
                    raise ModelError(f'{path}: shard is missing')
                headers[shard] = read_header(path, ModelError)
            if name not in headers[shard]:
                raise ModelError(f'{path}: tensor {shown(name)} is missing, the index promises it')
            stored[name] = Stored(path, headers[shard][name])
        return stored

    def _by_module_path(self, stored: dict[str, Stored]) -> dict[str, Stored]:
        found: dict[str, Stored] = {}
        for name, value in stored.items():
            path = self.family.canonical(name)
            if path in found and not same_values(found[path], value):
                raise ModelError(f'{value.path}: tensor {name} appears twice with different '
                                 f'values, also as {path}: remove one')
            found[path] = value
        return found

    def _drop_tied(self, found: dict[str, Stored], tied: dict[str, str]) -> None:
        """Keep one copy of tied weights. As in transformers, either name may hold it."""
        for copy, source in tied.items():
            if copy not in found:
                continue
            if source not in found:
                found[source] = found[copy]
            elif not same_values(found[copy], found[source]):
                raise ModelError(f'{self.folder}: config.json ties {copy} to {source}, but they '
                                 f'differ: set tie_word_embeddings to false')
            del found[copy]


def model_config(folder: Path) -> dict:
    """Return config.json of a model's folder, or of a bundle. Raises ModelError."""
    if not (folder / 'bundle.json').exists():
        refuse_other_formats(folder)
    return read_json(folder / 'config.json', 'a model folder has one')


def read_json(path: Path, hint: str) -> dict:
    """Read one JSON object. Raises ModelError naming the file."""
    try:
        return parse_object(read_plain(path, _MAX_JSON_BYTES))
    except FileNotFoundError as error:
        raise ModelError(f'{path} is missing' + (f': {hint}' if hint else '')) from error
    except OSError as error:
        raise ModelError(f'{path}: {error.strerror}') from error
    except ValueError as error:
        raise ModelError(f'{path}: {error}') from error


def read_pieces(stored: Stored, multiple: int = 1) -> Iterator[np.ndarray]:
    """Read a tensor in order in pieces of some MiB, uint8, each of whole `multiple` bytes.

    A piece is only valid until the next one is asked for. Raises ModelError.
    """
    size = max(PIECE_BYTES // multiple, 1) * multiple
    buffer = np.empty(min(size, stored.entry.nbytes), np.uint8)
    try:
        with open(stored.path, 'rb', buffering=0) as file:
            position = stored.entry.begin
            while position < stored.entry.end:
                piece = buffer[:min(size, stored.entry.end - position)]
                _fill(file.fileno(), piece, position, stored.path)
                yield piece
                position += len(piece)
            # each byte is read once: leave the page cache to others
            os.posix_fadvise(file.fileno(), stored.entry.begin, stored.entry.nbytes,
                             os.POSIX_FADV_DONTNEED)
    except OSError as error:
        raise ModelError(f'{stored.path}: {error.strerror}') from error


def _fill(descriptor: int, piece: np.ndarray, position: int, path: Path) -> None:
    done = 0
    while done < len(piece):
        got = os.preadv(descriptor, [memoryview(piece)[done:]], position + done)
        if got == 0:
            raise ModelError(f'{path}: truncated at byte {position + done}')
        done += got


def same_values(a: Stored, b: Stored) -> bool:
    """Tell whether two tensors have the same shape and values, of whatever types."""
    if a.entry.shape != b.entry.shape:
        return False
    if a.entry.dtype == b.entry.dtype and all(
            np.array_equal(x, y) for x, y in zip(read_pieces(a), read_pieces(b), strict=True)):
        return True
    if by_tag(a.entry.dtype) is None or by_tag(b.entry.dtype) is None:
        return False
    return all(np.array_equal(x, y, equal_nan=True)
               for x, y in zip(_values(a), _values(b), strict=True))


def _values(stored: Stored) -> Iterator[np.ndarray]:
    """Read a floating tensor as float32, as many values at once whatever their type."""
    made = by_tag(stored.entry.dtype)
    for piece in read_pieces(stored, _AT_ONCE * made.item_bytes):
        yield made.unpack(piece.view(made.storage))


def refuse_other_formats(folder: Path) -> None:
    """Raise ModelError, with the cure, for what is no folder of a whole model in safetensors."""
    if folder.is_file():
        kind = 'a GGUF file' if folder.suffix == '.gguf' else 'a file'
        raise ModelError(f'{folder} is {kind}: give the folder of a Hugging Face model, with '
                         'config.json and safetensors')
    if not folder.is_dir():
        raise ModelError(f'{folder}: no such model folder')
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ModelError(f'{folder}: {error.strerror}') from error
    if 'bundle.json' in names:
        raise ModelError(f'{folder} is a bundle already: to change its rows, neuron-chunk rewrite '
                         'or compress; to begin anew, give the model it was converted from')
    weights = any(name.endswith('.safetensors') and not name.startswith('adapter_')
                  for name in names)
    for told, kind, cure in _OTHERS:
        found = next((name for name in names if fnmatch.fnmatchcase(name, told)), None)
        if found is not None and not weights:
            raise ModelError(f'{folder}: {kind} ({found}): {cure}')
