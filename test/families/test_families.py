# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the families say of a model, held against transformers' own classes."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.families import FAMILIES, family_for
from neuron_chunk_ros.families.skeleton import skeleton, tensor_shapes, tied_tensors
from neuron_chunk_ros.prepare.presets import PRESETS

# published totals of safetensors' parameters
PUBLISHED_PARAMETERS = {'qwen2-vl-2b': 2_208_985_600}


@pytest.mark.parametrize('preset', PRESETS)
def test_groups_are_the_decoders_linear_layers(preset):
    config = PRESETS[preset].config
    family = family_for(config)
    model = skeleton(family, config)
    layers = model.get_submodule(family.decoder_path)
    linear = {f'{family.decoder_path}.{name}': module for name, module in layers.named_modules()
              if isinstance(module, torch.nn.Linear)}
    groups = family.groups(config)
    members = [member for group in groups for member in group.members]
    assert len(members) == len({member.name for member in members}) == len(linear)
    for group in groups:
        for member in group.members:
            assert linear[member.name].weight.shape == (member.columns, group.rows)
    assert family.layers(config) == len(layers)
    assert [group.name for group in groups] == [
        f'layers.{i}.{part}' for i in range(len(layers))
        for part in ('qkv', 'o', 'gate_up', 'down')]


@pytest.mark.parametrize('preset', PRESETS)
def test_separate_groups_hold_one_linear_layer_each(preset):
    family, config = family_for(PRESETS[preset].config), PRESETS[preset].config
    bundled, separate = family.groups(config), family.groups(config, 'separate')
    assert [(plan.rows, member) for plan in bundled for member in plan.members] == [
        (plan.rows, *plan.members) for plan in separate]
    assert [plan.name for plan in separate[:7]] == [
        f'layers.0.{part}' for part in ('q', 'k', 'v', 'o', 'gate', 'up', 'down')]
    columns = {plan.members[0].name: plan.columns for plan in separate}
    for plan in separate:
        feeders = family.feeders(plan.members[0].name)
        assert len(feeders) == (2 if plan.name.endswith('.down') else 0)
        assert all(columns[name] == plan.rows for name in feeders)


@pytest.mark.parametrize('preset', PUBLISHED_PARAMETERS)
def test_preset_has_the_published_size(preset):
    config = PRESETS[preset].config
    shapes = tensor_shapes(skeleton(family_for(config), config))
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == (
        PUBLISHED_PARAMETERS[preset])


# as the hub's checkpoints, transformers 4.52 on in memory, and transformers 5 on disk spell them
SPELLINGS = [
    ('llava_onevision', 'language_model.model.layers.3.mlp.up_proj.weight',
     'model.language_model.layers.3.mlp.up_proj.weight'),
    ('llava_onevision', 'language_model.model.embed_tokens.weight',
     'model.language_model.embed_tokens.weight'),
    ('llava_onevision', 'language_model.lm_head.weight', 'lm_head.weight'),
    ('llava_onevision', 'lm_head.weight', 'lm_head.weight'),
    ('llava_onevision', 'vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias',
     'model.vision_tower.encoder.layers.0.mlp.fc1.bias'),
    ('llava_onevision', 'vision_tower.encoder.layers.0.mlp.fc1.bias',
     'model.vision_tower.encoder.layers.0.mlp.fc1.bias'),
    ('llava_onevision', 'model.vision_tower.vision_model.post_layernorm.bias',
     'model.vision_tower.post_layernorm.bias'),
    ('llava_onevision', 'multi_modal_projector.linear_1.bias',
     'model.multi_modal_projector.linear_1.bias'),
    ('llava_onevision', 'image_newline', 'model.image_newline'),
    ('qwen2_vl', 'model.layers.0.self_attn.q_proj.bias',
     'model.language_model.layers.0.self_attn.q_proj.bias'),
    ('qwen2_vl', 'model.norm.weight', 'model.language_model.norm.weight'),
    ('qwen2_vl', 'visual.blocks.0.attn.qkv.weight', 'model.visual.blocks.0.attn.qkv.weight'),
    ('qwen2_vl', 'lm_head.weight', 'lm_head.weight'),
    ('qwen2_vl', 'model.visual.merger.ln_q.weight', 'model.visual.merger.ln_q.weight'),
    ('qwen2_vl', 'unheard.of', 'unheard.of'),
]


@pytest.mark.parametrize('family, spelled, path', SPELLINGS)
def test_spelling(family, spelled, path):
    assert FAMILIES[family].canonical(spelled) == path
    assert FAMILIES[family].canonical(path) == path


def test_names_survive_both_ways_and_transformers_saving(tiny_model, tmp_path):
    config = json.loads((tiny_model / 'config.json').read_text())
    family = family_for(config)
    names = set(tensor_shapes(skeleton(family, config)))
    assert {family.canonical(family.published(name)) for name in names} == names
    assert {family.canonical(name) for name in names} == names
    AutoModelForImageTextToText.from_pretrained(tiny_model).save_pretrained(tmp_path / 'saved')
    with safe_open(tmp_path / 'saved' / 'model.safetensors', 'pt') as file:
        assert {family.canonical(name) for name in file.keys()} == names


def test_old_flat_qwen2_vl_config():
    """Qwen2-VL's published config.json keeps the decoder's settings at the top level."""
    config = copy.deepcopy(PRESETS['tiny-qwen2-vl'].config)
    nested = family_for(config).groups(config)
    text = config.pop('text_config')
    del text['model_type'], text['rope_parameters']
    config['vision_config']['model_type'] = 'qwen2_vl'
    flat = {**config, **text, 'rope_theta': 1e6, 'torch_dtype': 'bfloat16',
            'rope_scaling': {'type': 'mrope', 'mrope_section': [2, 3, 3]}}
    before = copy.deepcopy(flat)
    assert family_for(flat).groups(flat) == nested
    assert flat == before


def test_tied_weights_are_left_out():
    for name, tied in (('tiny-llava-onevision', True), ('tiny-qwen2-vl', False)):
        config = PRESETS[name].config
        model = skeleton(family_for(config), config)
        assert ('lm_head.weight' in tensor_shapes(model)) is not tied
        assert ('lm_head.weight' in tied_tensors(model)) is tied


@pytest.mark.parametrize('kind', ['gpt2', None, 3, ['qwen2_vl'], {}])
def test_unknown_family_is_named(kind):
    with pytest.raises(ModelError) as caught:
        family_for({'model_type': kind})
    assert repr(kind) in str(caught.value) and 'llava_onevision, qwen2_vl' in str(caught.value)


@pytest.mark.parametrize('key, value', [
    ('num_hidden_layers', 0), ('num_hidden_layers', -1), ('num_hidden_layers', 10 ** 12),
    ('num_hidden_layers', 'many'), ('hidden_size', 2.5), ('num_key_value_heads', 0),
    ('num_attention_heads', 0), ('intermediate_size', None), ('model_type', 'llama')])
def test_broken_config_is_one_line(key, value):
    config = copy.deepcopy(PRESETS['tiny-llava-onevision'].config)
    config['text_config'][key] = value
    with pytest.raises(ModelError) as caught:
        family_for(config).groups(config)
    assert '\n' not in str(caught.value)
