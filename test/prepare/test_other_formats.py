# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Model folders that can't be converted are refused by convert, in one line, with the cure."""

import json
import os
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from neuron_chunk_ros.compress import integers, recipe
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.prepare.convert import convert

NORM = 'model.layers.1.input_layernorm.weight'
TOWER = 'visual.blocks.0.mlp.fc1.weight'
LINEAR = 'model.layers.0.mlp.up_proj.weight'
TABLE, HEAD = 'model.embed_tokens.weight', 'lm_head.weight'


@pytest.fixture
def model(tiny_models, tmp_path):
    return shutil.copytree(tiny_models['tiny-qwen2-vl'], tmp_path / 'model')


def refusal(source, target, **options):
    with pytest.raises(ModelError) as refused:
        convert(source, target, **options)
    assert not target.exists() and '\n' not in str(refused.value)
    return str(refused.value)


def as_tag(path, name, tag, item):
    """Say in a safetensors file that a tensor is of another type, with data to fit."""
    raw = path.read_bytes()
    length, = struct.unpack('<Q', raw[:8])
    header, data = json.loads(raw[8:8 + length]), raw[8 + length:]
    pieces, at = {}, 0
    for key, entry in header.items():
        if key == '__metadata__':
            continue
        begin, end = entry['data_offsets']
        blob = data[begin:end]
        if key == name:
            blob, entry['dtype'] = bytes(item * int(np.prod(entry['shape']))), tag
        entry['data_offsets'] = [at, at + len(blob)]
        pieces[key], at = blob, at + len(blob)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + b''.join(pieces.values()))


@pytest.mark.parametrize('name', [NORM, TOWER, LINEAR, TABLE])
@pytest.mark.parametrize('tag, item', [('F64', 8), ('F8_E4M3', 1), ('F8_E5M2', 1), ('I8', 1),
                                       ('U8', 1), ('I32', 4), ('BOOL', 1)])
@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_weights_that_are_not_computed_with(model, tmp_path, name, tag, item, dtype):
    as_tag(model / 'model.safetensors', name, tag, item)
    line = refusal(model, tmp_path / 'b', dtype=dtype)
    assert 'model.safetensors: tensor ' in line and f' is {tag}, only BF16, F16 and F32' in line
    assert ('save_pretrained' if tag == 'F64' else 'quantised') in line
    with pytest.raises(ModelError, match=f'is {tag}'):
        integers.compress(model, tmp_path / 'b', recipe.load('fixed-point'), [])


@pytest.mark.parametrize('files, words', [
    (['adapter_config.json', 'adapter_model.safetensors'], 'LoRA adapter'),
    (['adapter_config.json', 'adapter_model.safetensors', 'config.json'], 'merge_and_unload'),
    (['model-Q4_K_M.gguf'], 'llama.cpp'), (['config.json', 'm.gguf'], 'Hugging Face model it was'),
    (['model.onnx', 'config.json'], 'ONNX'), (['model_index.json'], 'diffusers'),
    (['config.json', 'pytorch_model.bin'], 'pickled'), (['config.json'], 'no weights'),
    ([], 'config.json is missing'), (['bundle.json', 'config.json'], 'is a bundle already'),
])
def test_folders_of_something_else(tiny_models, tmp_path, files, words):
    folder = tmp_path / 'model'
    folder.mkdir()
    for name in files:
        (folder / name).touch()
    if 'config.json' in files:
        shutil.copy(tiny_models['tiny-qwen2-vl'] / 'config.json', folder)
    assert words in refusal(folder, tmp_path / 'b')


def test_what_is_no_folder(tmp_path):
    (tmp_path / 'm.gguf').touch()
    assert 'is a GGUF file: give the folder' in refusal(tmp_path / 'm.gguf', tmp_path / 'b')
    (tmp_path / 'm.safetensors').touch()
    assert 'is a file: give the folder' in refusal(tmp_path / 'm.safetensors', tmp_path / 'b')
    assert 'no such model folder' in refusal(tmp_path / 'gone', tmp_path / 'b')


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors.index.json',
                                  'model.safetensors'])
def test_files_that_never_end(model, tmp_path, name):
    for wrong in ('fifo', 'zero'):
        (model / name).unlink(missing_ok=True)
        if name.endswith('index.json'):
            (model / 'model.safetensors').unlink(missing_ok=True)
        if wrong == 'fifo':
            os.mkfifo(model / name)
        else:
            (model / name).symlink_to('/dev/zero')
        assert f'{model / name}: not a regular file' in refusal(model, tmp_path / 'b')


def test_parts_that_are_quantised(model, tmp_path):
    config = json.loads((model / 'config.json').read_text())
    for part in ('text_config', 'vision_config'):
        changed = {**config, part: {**config[part], 'quantization_config': {'bits': 4}}}
        (model / 'config.json').write_text(json.dumps(changed))
        assert 'is quantised' in refusal(model, tmp_path / 'b')


def tied(model):
    for name in ('config.json',):
        config = json.loads((model / name).read_text())
        config['tie_word_embeddings'] = config['text_config']['tie_word_embeddings'] = True
        (model / name).write_text(json.dumps(config))
    tensors = load_file(model / 'model.safetensors')
    tensors.pop(HEAD, None)
    return tensors


@pytest.mark.parametrize('copy', [
    lambda table: table.copy(), lambda table: np.where(table == 0, -0.0, table).astype('float32'),
    lambda table: table.astype(np.float16)])
def test_a_tied_head_stored_twice(model, tmp_path, copy):
    """Equal values are equal, whatever their type, or the sign of their zeros."""
    tensors = tied(model)
    table = tensors[TABLE].astype(np.float16).astype(np.float32)  # representable in both
    table[0, :4] = 0
    save_file({**tensors, TABLE: table, HEAD: copy(table)}, model / 'model.safetensors')
    with Session.open(convert(model, tmp_path / 'b').path) as session:
        text = session.ask('what?', [], max_new_tokens=4).text
    save_file({**tensors, TABLE: table}, model / 'model.safetensors')
    with Session.open(convert(model, tmp_path / 'once').path) as session:
        assert session.ask('what?', [], max_new_tokens=4).text == text
    other = copy(table)
    other[3, 3] += 1
    save_file({**tensors, TABLE: table, HEAD: other}, model / 'model.safetensors')
    assert 'set tie_word_embeddings to false' in refusal(model, tmp_path / 'c')


def test_a_tensor_under_two_names(model, tmp_path):
    tensors = load_file(model / 'model.safetensors')
    twice = {**tensors, 'model.language_model.norm.weight': tensors['model.norm.weight']}
    save_file(twice, model / 'model.safetensors')
    assert convert(model, tmp_path / 'b').path.exists()
    twice['model.language_model.norm.weight'] = tensors['model.norm.weight'] + 1
    save_file(twice, model / 'model.safetensors')
    assert 'twice with different values' in refusal(model, tmp_path / 'c')


def test_a_bundle_of_an_earlier_release_with_such_weights(tiny_bundles, tmp_path):
    """Convert took them once."""
    from neuron_chunk_ros.errors import BundleError
    bundle = shutil.copytree(tiny_bundles['tiny-qwen2-vl'], tmp_path / 'bundle')
    as_tag(bundle / 'resident.safetensors', 'model.language_model.norm.weight', 'F64', 8)
    manifest = json.loads((bundle / 'bundle.json').read_text())
    manifest['resident']['bytes'] = (bundle / 'resident.safetensors').stat().st_size
    (bundle / 'bundle.json').write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match='is F64, which is not computed with: convert'):
        Session.open(bundle)
