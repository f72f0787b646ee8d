# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writing a random model of a real architecture and size, to try memory and speed with.

Nothing is learnt in it: its answers are noise, but every shape, file and byte count is real.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.families import family_for
from neuron_chunk_ros.families.skeleton import skeleton, tensor_shapes
from neuron_chunk_ros.prepare.presets import PRESETS, Preset
from neuron_chunk_ros.prepare.synthetic_tokenizer import write_tokenizer
from neuron_chunk_ros.storage.atomic import AtomicFolder, check_target, write_file
from neuron_chunk_ros.storage.row_format import ROW_FORMATS
from neuron_chunk_ros.storage.safetensors_header import plan_header

MAX_SHARD_BYTES = (4 << 30) - (128 << 20)
_PIECE_ELEMENTS = 1 << 20
_SMALL_FILES_BYTES = 16 << 20  # tokenizer, configs
_BIAS_STD = 0.1  # not zero: a bias that gets lost must show in a test
_EMBEDDING_STD = 0.02


def synthesize(preset: str | Preset, target: str | os.PathLike, *, seed: int = 0,
               dtype: str = 'bfloat16', max_shard_bytes: int = MAX_SHARD_BYTES,
               progress: Callable[[int, int], None] | None = None) -> Path:
    """Write the Hugging Face folder of a random model; the same seed gives the same bytes.

    Raises ModelError for an unknown preset or dtype, an existing target, too little space.
    """
    chosen = preset if isinstance(preset, Preset) else PRESETS.get(preset)
    if chosen is None:
        raise ModelError(f'preset {preset!r} is not known (known: {", ".join(PRESETS)})')
    if dtype not in ROW_FORMATS:
        raise ModelError(f'dtype {dtype!r} is not one of {", ".join(ROW_FORMATS)}')
    if seed < 0:
        raise ModelError(f'seed {seed} is negative')
    check_target(Path(target), ModelError)  # before anything slow
    config = {**chosen.config, 'dtype': dtype}
    family = family_for(config)
    shapes = {family.published(name): shape
              for name, shape in tensor_shapes(skeleton(family, config)).items()}
    item = ROW_FORMATS[dtype].item_bytes
    total = sum(math.prod(shape) for shape in shapes.values()) * item
    target = Path(target)
    done = 0

    def count(pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal done
        for piece in pieces:
            yield piece
            done += piece.nbytes
            if progress is not None:
                progress(done, total)

    with AtomicFolder(target, total + _SMALL_FILES_BYTES, ModelError) as folder:
        _write_small_files(chosen, config, folder.folder)
        shards = _shards(shapes, item, max_shard_bytes)
        for file, names in shards.items():
            header, _ = plan_header(
                ((name, ROW_FORMATS[dtype].tag, shapes[name]) for name in names), align_each=False)
            write_file(folder.folder / file, _weights(header, names, shapes, dtype, seed, count))
        if len(shards) > 1:
            index = {'metadata': {'total_size': total},
                     'weight_map': {name: file for file, names in shards.items()
                                    for name in names}}
            _write_json(folder.folder / 'model.safetensors.index.json', index)
    return target


def _write_small_files(preset: Preset, config: dict, folder: Path) -> None:
    _write_json(folder / 'config.json', config)
    text = config['text_config']
    _write_json(folder / 'generation_config.json', {
        'do_sample': False, 'bos_token_id': text['bos_token_id'],
        'pad_token_id': text['bos_token_id'],
        'eos_token_id': [text['eos_token_id'], text['bos_token_id']]})
    for name, content in preset.files.items():
        _write_json(folder / name, content)
    write_tokenizer(preset, folder)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + '\n')


def _shards(shapes: dict[str, tuple[int, ...]], item: int, limit: int) -> dict[str, list[str]]:
    """Deal the tensors, in order, into files of at most `limit` bytes of data."""
    batches: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        nbytes = math.prod(shape) * item
        if batches[-1] and size + nbytes > limit:
            batches.append([])
            size = 0
        batches[-1].append(name)
        size += nbytes
    if len(batches) == 1:
        return {'model.safetensors': batches[0]}
    return {f'model-{i:05d}-of-{len(batches):05d}.safetensors': batch
            for i, batch in enumerate(batches, 1)}


def _weights(header: bytes, names: list[str], shapes: dict[str, tuple[int, ...]], dtype: str,
             seed: int, count: Callable) -> Iterator:
    yield header
    for name in names:
        yield from count(_tensor(name, shapes[name], dtype, seed))


def _tensor(name: str, shape: tuple[int, ...], dtype: str, seed: int) -> Iterator[np.ndarray]:
    if len(shape) == 1 and name.endswith('.weight'):  # a norm's gain
        yield ROW_FORMATS[dtype].pack(np.ones(shape, np.float32)).view(np.uint8)
        return
    if name.endswith('.bias'):
        std = _BIAS_STD
    elif 'embed_tokens' in name or 'position_embedding' in name:
        std = _EMBEDDING_STD
    else:
        std = 1 / math.sqrt(math.prod(shape[1:]) if len(shape) > 1 else shape[0])
    seeds = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
    yield from random_weights(np.random.SFC64(seeds), math.prod(shape), std, dtype)


def random_weights(bits: np.random.BitGenerator, count: int, std: float,
                   dtype: str) -> Iterator[np.ndarray]:
    """Yield `count` random weights in pieces, uint8, at the speed of the random bits.

    Sign and mantissa are random bits as they come and the exponent is one of two neighbours:
    symmetric about 0, root mean square 2.42 * 2^e for the whole e that brings it next to std.
    """
    # per type: bits of the mantissa, exponent bias
    mantissa, bias = {'bfloat16': (7, 127), 'float16': (10, 15), 'float32': (23, 127)}[dtype]
    store = np.dtype(f'u{ROW_FORMATS[dtype].item_bytes}')
    exponent = min(max(bias + round(math.log2(std / math.sqrt(35 / 6))), 1), 2 * bias - 2)
    sign = 1 << (8 * store.itemsize - 1)
    keep = store.type(sign | (1 << mantissa + 1) - 1)  # sign, exponent's lowest bit, mantissa
    base = store.type(exponent << mantissa)
    while count > 0:
        size = min(count, _PIECE_ELEMENTS)
        words = -(-size * store.itemsize // 8)
        values = bits.random_raw(words).view(store)[:size]
        values &= keep
        values += base
        yield values.view(np.uint8)
        count -= size
