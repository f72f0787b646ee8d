# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Converting: the bundle holds the checkpoint's numbers, and bad folders end in one line."""

import json
import os
import shutil
import struct
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.errors import BundleError, ModelError
from neuron_chunk_ros.families import FAMILIES
from neuron_chunk_ros.prepare.checkpoint import PIECE_BYTES, Stored, read_pieces
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.synthesize import synthesize
from neuron_chunk_ros.storage.safetensors_header import TensorEntry
from neuron_chunk_ros.storage.verify import verify

WEIGHTS = 'model.safetensors'


def bundle_tensors(bundle):
    """Read a bundle back as a model's state: module path -> tensor."""
    state = load_file(bundle.resident_file)
    for path in bundle.flash_files:
        with safe_open(path, 'pt') as file:
            for group in bundle.stored.values():
                if group.file == path.name:
                    rows = file.get_tensor(group.tensor)
                    if group is bundle.embedding:  # by token, as in any checkpoint
                        state[group.members[0].name + '.weight'] = rows
                        continue
                    parts = rows.split([member.columns for member in group.members], dim=1)
                    for member, part in zip(group.members, parts, strict=True):
                        state[member.name + '.weight'] = part.T
    return state


def edit_config(folder, **changes):
    path = folder / 'config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {'format': 'pt'})


def some(tensors, ending):
    return next(name for name in tensors if name.endswith(ending))


@pytest.mark.parametrize('saved_by', ['us', 'transformers', 'transformers in shards'])
def test_bundle_is_the_model(tiny_model, tmp_path, saved_by):
    model = AutoModelForImageTextToText.from_pretrained(tiny_model)
    if saved_by != 'us':
        size = '200KB' if 'shards' in saved_by else '1GB'
        model.save_pretrained(tmp_path / 'saved', max_shard_size=size)
        assert (tmp_path / 'saved' / WEIGHTS).exists() is ('shards' not in saved_by)
        for path in tiny_model.iterdir():
            if path.name not in (WEIGHTS, 'config.json'):  # tokenizer, processor, template
                shutil.copy(path, tmp_path / 'saved')
    seen = []
    bundle = convert(tiny_model if saved_by == 'us' else tmp_path / 'saved', tmp_path / 'b',
                     progress=lambda done, total: seen.append((done, total)))
    assert bundle.dtype == 'float32' and verify(bundle) == []
    state = bundle_tensors(bundle)
    expected = model.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    decoder = {member.name for group in bundle.groups.values() for member in group.members}
    assert not any(name.removesuffix('.weight') in decoder for name in bundle.resident_tensors)
    assert any(name.endswith('q_proj.bias') for name in bundle.resident_tensors)
    # What is written, and what was looked through for weights that are no numbers.
    read = sum(tensor.nbytes for name, tensor in expected.items()
               if name != 'lm_head.weight' or not model.config.tie_word_embeddings)
    assert seen[-1][0] == seen[-1][1] == bundle.flash_bytes + bundle.resident_bytes + read


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_rounding_is_torchs(tiny_model, tmp_path, dtype):
    before = bundle_tensors(convert(tiny_model, tmp_path / 'a'))
    bundle = convert(tiny_model, tmp_path / 'b', dtype)
    assert bundle.dtype == dtype and bundle.provenance['dtype_asked'] == dtype
    for name, tensor in bundle_tensors(bundle).items():
        assert torch.equal(tensor, before[name].to(getattr(torch, dtype))), name


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_own_dtype_is_kept(tmp_path, dtype):
    folder = synthesize('tiny-qwen2-vl', tmp_path / 'm', dtype=dtype)
    bundle = convert(folder, tmp_path / 'b')
    assert bundle.dtype == dtype and bundle.provenance['dtype_asked'] is None
    source = load_file(folder / WEIGHTS)
    family = FAMILIES[bundle.family]
    for name, tensor in bundle_tensors(bundle).items():
        assert torch.equal(tensor, source[family.published(name)]), name


def test_small_files_are_copied_and_code_is_not(tiny_model, tmp_path):
    for name in ('modeling.py', 'run.sh', '.hidden.json', 'LICENSE', 'vocab.txt', 'a b.json',
                 'model.safetensors.index.json'):
        (tiny_model / name).write_text('{}')
    (tiny_model / 'folder.json').mkdir()
    bundle = convert(tiny_model, tmp_path / 'b')
    assert set(bundle.files) == {
        'LICENSE', 'chat_template.jinja', 'config.json', 'generation_config.json',
        'preprocessor_config.json', 'processor_config.json', 'tokenizer.json',
        'tokenizer_config.json', 'video_preprocessor_config.json', 'vocab.txt'}
    for name in bundle.files:
        assert (bundle.path / name).read_bytes() == (tiny_model / name).read_bytes()
    names = {path.name for path in bundle.path.iterdir()}
    assert names == {*bundle.files, 'bundle.json', 'resident.safetensors',
                     'flash-00001-of-00001.safetensors'}


def test_hub_cache_of_links_is_read(tiny_model, tmp_path):
    (tmp_path / 'snapshot').mkdir()
    for path in tiny_model.iterdir():
        (tmp_path / 'snapshot' / path.name).symlink_to(path)
    bundle = convert(tmp_path / 'snapshot', tmp_path / 'b')
    assert not any(path.is_symlink() for path in bundle.path.iterdir())


def test_unknown_tensors_are_ignored_and_named(tiny_model, tmp_path):
    edit_weights(tiny_model, lambda t: t.__setitem__('rotary.inv_freq', torch.ones(3)))
    bundle = convert(tiny_model, tmp_path / 'b')
    assert bundle.provenance['ignored_tensors'] == ['rotary.inv_freq']
    assert 'rotary.inv_freq' not in bundle.resident_tensors


def test_tied_copy(tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models['tiny-llava-onevision'], tmp_path / 'm')
    embedding = 'language_model.model.embed_tokens.weight'
    edit_weights(folder, lambda t: t.__setitem__('language_model.lm_head.weight',
                                                 t[embedding].clone()))
    both = convert(folder, tmp_path / 'both')
    assert 'lm_head.weight' not in both.resident_tensors
    edit_weights(folder, lambda t: t.pop(embedding))
    head_only = convert(folder, tmp_path / 'head')
    assert bundle_tensors(head_only).keys() == bundle_tensors(both).keys()
    edit_weights(folder, lambda t: t.__setitem__(embedding, torch.zeros(512, 64)))
    with pytest.raises(ModelError, match='tie_word_embeddings'):
        convert(folder, tmp_path / 'b')


def no_config(folder):
    (folder / 'config.json').unlink()


def config_not_json(folder):
    (folder / 'config.json').write_text('{"model_type": ')


def unknown_architecture(folder):
    edit_config(folder, model_type='gpt2')


def quantised(folder):
    edit_config(folder, quantization_config={'quant_method': 'awq'})


def no_weights(folder):
    (folder / WEIGHTS).unlink()


def pickled(folder):
    (folder / WEIGHTS).rename(folder / 'pytorch_model.bin')


def truncated(folder):
    os.truncate(folder / WEIGHTS, 100_000)


def header_length(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack('<Q', 1 << 60) + data[8:])


def tensor_missing(folder):
    edit_weights(folder, lambda t: t.pop(some(t, 'layers.1.mlp.up_proj.weight')))


def resident_missing(folder):
    edit_weights(folder, lambda t: t.pop(some(t, 'layers.2.input_layernorm.weight')))


def wrong_shape(folder):
    edit_weights(folder, lambda t: t.__setitem__(some(t, 'layers.1.mlp.up_proj.weight'),
                                                 torch.zeros(64, 192)))


def wrong_resident_shape(folder):
    edit_weights(folder, lambda t: t.__setitem__(some(t, '1.self_attn.q_proj.bias'),
                                                 torch.zeros(3)))


def mixed_types(folder):
    def change(tensors):
        name = some(tensors, 'layers.1.mlp.up_proj.weight')
        tensors[name] = tensors[name].half()
    edit_weights(folder, change)


def integers(folder):
    def change(tensors):
        for name in tensors:
            tensors[name] = tensors[name].to(torch.int8)
    edit_weights(folder, change)


def in_shards(folder):
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    shards = {'model-1.safetensors': names[::2], 'model-2.safetensors': names[1::2]}
    for shard, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / shard, {'format': 'pt'})
    index = {'weight_map': {name: shard for shard, part in shards.items() for name in part}}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
    return index


def shard_missing(folder):
    in_shards(folder)
    (folder / 'model-2.safetensors').unlink()


def shard_truncated(folder):
    in_shards(folder)
    os.truncate(folder / 'model-2.safetensors', 60_000)


def shard_empty(folder):
    in_shards(folder)
    os.truncate(folder / 'model-2.safetensors', 0)


def shard_lacks_tensor(folder):
    index = in_shards(folder)
    index['weight_map'] = dict.fromkeys(index['weight_map'], 'model-1.safetensors')
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))


def shard_outside(folder):
    index = in_shards(folder)
    name = next(iter(index['weight_map']))
    index['weight_map'][name] = '../model-1.safetensors'
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))


def index_empty(folder):
    in_shards(folder)
    (folder / 'model.safetensors.index.json').write_text('{"weight_map": []}')


BAD = [
    (no_config, 'config.json is missing'), (config_not_json, 'config.json: '),
    (unknown_architecture, "'gpt2' is not supported"), (quantised, 'quantised'),
    (no_weights, 'no weights'), (pickled, 'pytorch_model.bin.*save_pretrained'),
    (truncated, 'model.safetensors: truncated'), (header_length, 'over the limit'),
    (tensor_missing, 'layers.1.mlp.up_proj.weight is missing'),
    (resident_missing, 'layers.2.input_layernorm.weight is missing'),
    (wrong_shape, r'layers.1.mlp.up_proj.weight has shape \[64, 192\].*\[192, 64\]'),
    (wrong_resident_shape, 'q_proj.bias has shape'), (mixed_types, 'F16 and F32; .*--dtype'),
    (integers, 'I8'), (shard_missing, 'model-2.safetensors: shard is missing'),
    (shard_truncated, 'model-2.safetensors: truncated'), (shard_empty, 'model-2.*truncated'),
    (shard_lacks_tensor, 'the index promises'), (shard_outside, 'not the name of a shard'),
    (index_empty, 'weight_map'),
]


@pytest.mark.parametrize('spoil, words', BAD, ids=lambda value: getattr(value, '__name__', ''))
def test_bad_model_is_one_line_and_leaves_nothing(tiny_models, tmp_path, spoil, words):
    folder = shutil.copytree(tiny_models['tiny-qwen2-vl'], tmp_path / 'm')
    spoil(folder)
    with pytest.raises(ModelError, match=words) as caught:
        convert(folder, tmp_path / 'b')
    assert '\n' not in str(caught.value) and str(folder) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ['m']


def test_mixed_types_convert_when_told_to_which(tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models['tiny-qwen2-vl'], tmp_path / 'm')
    mixed_types(folder)
    assert convert(folder, tmp_path / 'b', 'bfloat16').dtype == 'bfloat16'


def test_value_beyond_float16_is_refused(tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models['tiny-qwen2-vl'], tmp_path / 'm')
    edit_weights(folder, lambda t: t[some(t, 'layers.1.mlp.up_proj.weight')].view(-1).__setitem__(
        5, 1e6))
    with pytest.raises(ModelError, match='up_proj.weight has a value that does not fit float16'):
        convert(folder, tmp_path / 'b', 'float16')
    assert [path.name for path in tmp_path.iterdir()] == ['m']


def test_bad_targets(tiny_model, tmp_path):
    with pytest.raises(ModelError, match='inside the model folder'):
        convert(tiny_model, tiny_model / 'b')
    (tmp_path / 'link').symlink_to(tiny_model)
    with pytest.raises(ModelError, match='inside the model folder'):
        convert(tiny_model, tmp_path / 'link' / 'b')
    with pytest.raises(ModelError, match='int8'):
        convert(tiny_model, tmp_path / 'b', 'int8')
    with pytest.raises(ModelError, match='no such model folder'):
        convert(tmp_path / 'gone', tmp_path / 'b')
    (tmp_path / 'b').mkdir()
    with pytest.raises(BundleError, match='already exists'):
        convert(tiny_model, tmp_path / 'b')
    assert not list((tmp_path / 'b').iterdir())


def test_disk_that_is_too_small(tiny_model, small_disk):
    (small_disk / 'ballast').write_bytes(bytes(10 << 20))
    with pytest.raises(BundleError, match=r'needs [\d.]+ MB, .* has [\d.]+ MB free'):
        convert(tiny_model, small_disk / 'b')
    assert [path.name for path in small_disk.iterdir()] == ['ballast']


def test_weights_cut_short_while_reading(tmp_path):
    path = tmp_path / 'x'
    path.write_bytes(bytes(100))
    with pytest.raises(ModelError, match='truncated at byte 100'):
        list(read_pieces(Stored(path, TensorEntry('U8', (200,), 0, 200))))


@pytest.mark.parametrize('multiple', [1, 7, PIECE_BYTES - 1, PIECE_BYTES + 1])
def test_pieces_are_whole_rows(tmp_path, multiple):
    path = tmp_path / 'x'
    content = os.urandom(multiple * (2 * PIECE_BYTES // multiple + 3) + 13)
    path.write_bytes(content)
    stored = Stored(path, TensorEntry('U8', (len(content) - 13,), 13, len(content)))
    pieces = [bytes(piece) for piece in read_pieces(stored, multiple)]
    assert b''.join(pieces) == content[13:]
    assert all(len(piece) % multiple == 0 for piece in pieces)


MEASURE = """
import sys
from neuron_chunk_ros.prepare.convert import convert

def status(key):
    for line in open('/proc/self/status'):
        if line.startswith(key):
            return int(line.split()[1]) * 1024

convert(sys.argv[1], sys.argv[3] + '.tiny')  # everything is imported and warm
open('/proc/self/clear_refs', 'w').write('5')  # forget the peak so far
before = status('VmRSS')
convert(sys.argv[2], sys.argv[3])
print(status('VmHWM') - before)
"""


@pytest.mark.slow
def test_peak_memory_is_a_group_not_the_model(tiny_models, large_model, tmp_path):
    size = (large_model / WEIGHTS).stat().st_size
    assert size > 300e6
    done = subprocess.run(
        [sys.executable, '-c', MEASURE, str(tiny_models['tiny-llava-onevision']),
         str(large_model), str(tmp_path / 'b')], capture_output=True, text=True, check=True)
    peak = int(done.stdout)
    print(f'converting {size / 1e6:.0f} MB took {peak / 1e6:.1f} MB on top')
    assert peak < 0.15 * size
