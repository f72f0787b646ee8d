# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Random models: real architectures that transformers loads, the same bytes for a seed."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.prepare.presets import PRESETS
from neuron_chunk_ros.prepare.synthesize import random_weights, synthesize


def load(folder):
    model, notes = AutoModelForImageTextToText.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32)
    assert not notes['missing_keys'] and not notes['unexpected_keys']
    assert not notes['mismatched_keys']
    return model


def test_transformers_loads_and_answers(tiny_model):
    model = load(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    processor = AutoImageProcessor.from_pretrained(tiny_model, backend='pil')
    text = tokenizer.apply_chat_template(
        [{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'Wo?'}]}],
        add_generation_prompt=True, tokenize=False)
    assert text.endswith('Wo?<|im_end|>\n<|im_start|>assistant\n')
    pixels = processor(images=[np.zeros((56, 56, 3), np.uint8)], return_tensors='pt')
    config = model.config
    ids = tokenizer(text)['input_ids']
    extra = {}
    if config.model_type == 'qwen2_vl':
        count, image = int(pixels['image_grid_thw'].prod()) // 4, config.image_token_id
        extra = dict(pixels)
    else:  # as a one-frame video: pooled to a quarter, then a newline
        count, image = 5, config.video_token_id
        extra = {'pixel_values_videos': pixels['pixel_values'][:, :1]}
    assert ids.count(config.image_token_id) == 1
    expanded = []
    for token in ids:
        expanded += [image] * count if token == config.image_token_id else [token]
    expanded = torch.tensor([expanded])
    if config.model_type == 'qwen2_vl':
        extra['mm_token_type_ids'] = (expanded == image).int()
    with torch.inference_mode():
        logits = model(input_ids=expanded, **extra).logits
        answer = model.generate(input_ids=expanded, **extra, max_new_tokens=4, do_sample=False)
    assert torch.isfinite(logits).all() and logits.std() > 0.01
    assert answer.shape[1] > expanded.shape[1]


def test_tokenizer_covers_the_vocabulary(tiny_models):
    for name, folder in tiny_models.items():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        config = json.loads((folder / 'config.json').read_text())
        text = 'Grüße, 机器人! <|im_end|>'
        assert tokenizer.decode(tokenizer(text)['input_ids']) == text
        assert tokenizer.eos_token_id == config['text_config']['eos_token_id']
        assert len(tokenizer) <= config['text_config']['vocab_size']
        assert tokenizer.decode([PRESETS[name].words - 1]).startswith(' w')


@pytest.mark.parametrize('preset, token, number', [
    ('llava-onevision-0.5b', '<image>', 151646), ('llava-onevision-7b', '<video>', 151647),
    ('qwen2-vl-2b', '<|image_pad|>', 151655), ('qwen2-vl-2b', '<|vision_start|>', 151652)])
def test_special_tokens_have_the_published_numbers(preset, token, number):
    chosen = PRESETS[preset]
    assert chosen.words + chosen.special_tokens.index(token) == number
    assert number in chosen.config.values()


def test_same_seed_same_bytes(tmp_path):
    folders = [synthesize('tiny-qwen2-vl', tmp_path / str(i), seed=i // 2) for i in range(3)]
    contents = [(folder / 'model.safetensors').read_bytes() for folder in folders]
    assert contents[0] == contents[1] != contents[2]
    names = sorted(path.name for path in folders[0].iterdir())
    assert 'chat_template.jinja' in names and 'model.safetensors.index.json' not in names
    for name in names:
        same = (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
        assert same, name


def test_shards_hold_the_same_model(tmp_path, tiny_models):
    folder = synthesize('tiny-llava-onevision', tmp_path / 'm', dtype='float32', seed=7,
                        max_shard_bytes=200_000)
    shards = sorted(folder.glob('model-*.safetensors'))
    assert len(shards) > 3 and all(path.stat().st_size < 240_000 for path in shards)
    whole = load(tiny_models['tiny-llava-onevision']).state_dict()
    for name, tensor in load(folder).state_dict().items():
        assert torch.equal(tensor, whole[name]), name


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32'])
@pytest.mark.parametrize('std', [1.0, 0.1, 1 / 30, 1 / 60, 1 / 137])
def test_weights_are_spread_as_asked(dtype, std):
    pieces = [piece.copy() for piece in random_weights(np.random.SFC64(3), 2_000_001, std, dtype)]
    values = torch.from_numpy(np.concatenate(pieces)).view(getattr(torch, dtype)).double()
    assert len(values) == 2_000_001 and torch.isfinite(values).all()
    assert abs(float(values.mean())) < 0.005 * std
    assert 0.7 < float(values.square().mean().sqrt()) / std < 1.42
    assert len(values.unique()) >= 512


@pytest.mark.parametrize('arguments, words', [
    ({'preset': 'gpt-5'}, 'gpt-5'), ({'dtype': 'int4'}, 'int4'), ({'seed': -1}, 'seed')])
def test_bad_request(tmp_path, arguments, words):
    with pytest.raises(ModelError, match=words):
        synthesize(**{'preset': 'tiny-qwen2-vl', 'target': tmp_path / 'm', **arguments})
    assert not list(tmp_path.iterdir())


def test_existing_target_is_kept(tmp_path):
    (tmp_path / 'm').mkdir()
    with pytest.raises(ModelError, match='already exists'):
        synthesize('tiny-qwen2-vl', tmp_path / 'm')
    assert not list((tmp_path / 'm').iterdir())


def test_full_disk_is_said_before_writing(small_disk):
    with pytest.raises(ModelError, match=r'needs [\d.]+ MB, .* has [\d.]+ MB free'):
        synthesize('tiny-qwen2-vl', small_disk / 'm')
    assert not list(small_disk.iterdir())
