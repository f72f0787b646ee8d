# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tabletop model's architecture and its Hugging Face folder.

A LLaVA-OneVision (SigLIP vision tower, Qwen2 text decoder) of about six million parameters.
"""

import json
from pathlib import Path

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from neuron_chunk_ros.tabletop.vocabulary import END, IMAGE, PAD, VIDEO, build_tokenizer

IMAGE_SIZE = 64
PATCH = 8
MEAN = STD = (0.5, 0.5, 0.5)


def build_config() -> LlavaOnevisionConfig:
    """Return the architecture, with the token numbers of our tokenizer."""
    tokenizer = build_tokenizer()
    number = tokenizer.convert_tokens_to_ids
    text = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=768, num_hidden_layers=5,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=number(END),
        pad_token_id=number(PAD), initializer_range=0.04)
    vision = SiglipVisionConfig(
        hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=6,
        image_size=IMAGE_SIZE, patch_size=PATCH, vision_use_head=False)
    return LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=number(IMAGE),
        video_token_index=number(VIDEO), image_token_id=number(IMAGE),
        video_token_id=number(VIDEO), vision_feature_layer=-1,
        vision_feature_select_strategy='full', vision_aspect_ratio='anyres_max_1',
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]], tie_word_embeddings=True)


def build_model(seed: int) -> LlavaOnevisionForConditionalGeneration:
    """Return an untrained float32 model."""
    torch.manual_seed(seed)
    config = build_config()
    config._attn_implementation = 'eager'
    model = LlavaOnevisionForConditionalGeneration(config)
    # Wide position embeddings let the tower tell places apart from the first step on; at the
    # usual 0.02 the answers about places never left chance.
    torch.nn.init.normal_(position_embedding(model).weight, std=0.4)
    return model


def position_embedding(model: LlavaOnevisionForConditionalGeneration) -> torch.nn.Embedding:
    """Return the vision tower's position table."""
    tower = model.model.vision_tower
    return getattr(tower, 'vision_model', tower).embeddings.position_embedding


def save(model: LlavaOnevisionForConditionalGeneration, folder: Path) -> None:
    """Write a bfloat16 Hugging Face folder: weights, config, tokenizer, processor settings."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().to(torch.bfloat16) for k, v in model.state_dict().items()}
    copy = LlavaOnevisionForConditionalGeneration(build_config()).to(torch.bfloat16)
    copy.load_state_dict(state)
    copy.generation_config.eos_token_id = copy.config.text_config.eos_token_id
    copy.generation_config.pad_token_id = copy.config.text_config.pad_token_id
    copy.save_pretrained(folder, safe_serialization=True)
    build_tokenizer().save_pretrained(folder)
    pixels = {
        'do_resize': True, 'size': {'height': IMAGE_SIZE, 'width': IMAGE_SIZE}, 'resample': 3,
        'do_rescale': True, 'rescale_factor': 1 / 255, 'do_normalize': True,
        'image_mean': MEAN, 'image_std': STD, 'do_convert_rgb': True,
        'processor_class': 'LlavaOnevisionProcessor'}
    _write(folder / 'preprocessor_config.json', {
        **pixels, 'image_processor_type': 'LlavaOnevisionImageProcessor', 'do_pad': True,
        'image_grid_pinpoints': [[IMAGE_SIZE, IMAGE_SIZE]]})
    _write(folder / 'video_preprocessor_config.json', {
        **pixels, 'video_processor_type': 'LlavaOnevisionVideoProcessor'})
    _write(folder / 'processor_config.json', {
        'processor_class': 'LlavaOnevisionProcessor', 'image_token': IMAGE, 'video_token': VIDEO,
        'num_image_tokens': (IMAGE_SIZE // PATCH) ** 2,
        'vision_feature_select_strategy': 'full', 'vision_aspect_ratio': 'anyres_max_1'})


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + '\n')
