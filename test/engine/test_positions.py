# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Moving rotated keys, against transformers' own rotation at the other position."""

from types import SimpleNamespace

import pytest
import torch
from stream_reference import rotate
from transformers import AutoConfig, AutoModelForImageTextToText

from neuron_chunk_ros.engine.positions import KeyRotation
from neuron_chunk_ros.errors import ModelError

HEAD = 16
TYPES = {
    'default': {},
    'linear': {'factor': 4.0},
    'yarn': {'factor': 4.0, 'original_max_position_embeddings': 2048},
    'llama3': {'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
               'original_max_position_embeddings': 2048},
}


def skeleton(folder, kind):
    config = AutoConfig.from_pretrained(folder)
    config.text_config.rope_parameters = {
        **config.text_config.rope_parameters, 'rope_type': kind, **TYPES.get(kind, {})}
    return AutoModelForImageTextToText.from_config(config)


@pytest.mark.parametrize('family', ['tiny-llava-onevision', 'tiny-qwen2-vl'])
@pytest.mark.parametrize('kind', TYPES)
@pytest.mark.parametrize('move', [1, 37, 9000, -14, -9000, 0])
def test_a_moved_key_is_the_key_at_the_other_position(tiny_models, family, kind, move):
    """Of all static types; in three axes, the same move in each."""
    model = skeleton(tiny_models[family], kind)
    rotary = model.model.language_model.rotary_emb
    assert rotary.rope_type == kind
    axes = family == 'tiny-qwen2-vl'
    positions = torch.randint(9000, 9200, (3, 1, 5) if axes else (1, 5))
    keys = torch.randn(1, 2, 5, HEAD)
    here = rotate(keys, *rotary(torch.zeros(1), positions))
    there = rotate(keys, *rotary(torch.zeros(1), positions + move))
    # At 9000 the model's own float32 angles are off by up to 5e-4.
    moved = KeyRotation(model.model.language_model, HEAD)(here, move)
    torch.testing.assert_close(moved, there, rtol=0, atol=4e-3)
    if kind != 'linear':
        far = KeyRotation(model.model.language_model, HEAD)(here, move + 1)
        assert (far - there).abs().max() > 0.1


def test_half_precision_is_rotated_in_single(tiny_models):
    model = skeleton(tiny_models['tiny-llava-onevision'], 'default')
    keys = torch.randn(1, 2, 5, HEAD).bfloat16()
    turned = KeyRotation(model.model.language_model, HEAD)
    assert torch.equal(turned(keys, 11), turned(keys.float(), 11).bfloat16())
    assert torch.equal(turned(keys, 0), keys)


def test_what_can_not_be_moved_is_refused(tiny_models):
    model = skeleton(tiny_models['tiny-llava-onevision'], 'default')
    with pytest.raises(ModelError, match="16 of a head's 32 channels"):
        KeyRotation(model.model.language_model, 2 * HEAD)
    for kind in ('dynamic', 'longrope', 'proportional'):
        rotary = SimpleNamespace(rope_type=kind, inv_freq=torch.ones(HEAD // 2))
        held = SimpleNamespace(model=SimpleNamespace(
            language_model=SimpleNamespace(rotary_emb=rotary)))
        with pytest.raises(ModelError, match=f"rope_type '{kind}' .known: default, linear"):
            KeyRotation(held.model.language_model, HEAD)
