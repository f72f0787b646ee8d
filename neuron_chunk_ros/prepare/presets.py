# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Architectures that can be synthesised: shapes of published models, and small ones for tests.

The shapes are those of Qwen2-VL-2B-Instruct and of LLaVA-OneVision on Qwen2-0.5B and Qwen2-7B
(vocabulary rows as in those Qwen2 models).
"""

from __future__ import annotations

from dataclasses import dataclass

_QWEN2_SPECIAL = ('<|endoftext|>', '<|im_start|>', '<|im_end|>')
_VISION_SPECIAL = (
    '<|object_ref_start|>', '<|object_ref_end|>', '<|box_start|>', '<|box_end|>',
    '<|quad_start|>', '<|quad_end|>', '<|vision_start|>', '<|vision_end|>', '<|vision_pad|>',
    '<|image_pad|>', '<|video_pad|>')
_CLIP = {'image_mean': [0.48145466, 0.4578275, 0.40821073],
         'image_std': [0.26862954, 0.26130258, 0.27577711]}
_HALF = {'image_mean': [0.5, 0.5, 0.5], 'image_std': [0.5, 0.5, 0.5]}


@dataclass(frozen=True)
class Preset:
    """A model to synthesise: its config.json, tokenizer layout and processor files."""

    name: str
    config: dict
    words: int  # ordinary entries of the vocabulary; the special tokens follow
    special_tokens: tuple[str, ...]
    image_text: str  # what stands for an image in a prompt
    video_text: str
    files: dict[str, dict]  # processor files by name


def _llava_onevision(name: str, words: int, vision: dict, text: dict) -> Preset:
    special = (*_QWEN2_SPECIAL, '<image>', '<video>')
    ids = {token: words + i for i, token in enumerate(special)}
    side = vision['image_size']
    steps = [side * i for i in range(1, 7)]
    grid = [[height, width] for height in steps for width in steps]
    config = {
        'architectures': ['LlavaOnevisionForConditionalGeneration'],
        'model_type': 'llava_onevision', 'dtype': 'bfloat16',
        'image_token_index': ids['<image>'], 'video_token_index': ids['<video>'],
        'image_grid_pinpoints': grid, 'vision_aspect_ratio': 'anyres_max_9',
        'vision_feature_layer': -1, 'vision_feature_select_strategy': 'full',
        'projector_hidden_act': 'gelu', 'tie_word_embeddings': text['tie_word_embeddings'],
        'vision_config': {'model_type': 'siglip_vision_model', 'vision_use_head': False, **vision},
        'text_config': {
            'model_type': 'qwen2', 'max_position_embeddings': 32768, 'rms_norm_eps': 1e-6,
            'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6},
            'bos_token_id': ids['<|endoftext|>'], 'eos_token_id': ids['<|im_end|>'], **text},
    }
    pixels = {'do_convert_rgb': True, 'do_normalize': True, 'do_rescale': True, 'do_resize': True,
              'resample': 3, 'rescale_factor': 1 / 255, 'size': {'height': side, 'width': side},
              **_HALF}
    processor = {'processor_class': 'LlavaOnevisionProcessor'}
    files = {
        'preprocessor_config.json': {
            **processor, 'image_processor_type': 'LlavaOnevisionImageProcessor', **pixels,
            'do_pad': True, 'image_grid_pinpoints': grid},
        'video_preprocessor_config.json': {
            **processor, 'video_processor_type': 'LlavaOnevisionVideoProcessor', **pixels},
        'processor_config.json': {
            **processor, 'num_image_tokens': (side // vision['patch_size']) ** 2,
            'vision_feature_select_strategy': 'full', 'vision_aspect_ratio': 'anyres_max_9',
            'image_token': '<image>', 'video_token': '<video>'},
    }
    return Preset(name, config, words, special, '<image>\n', '<video>\n', files)


def _qwen2_vl(name: str, words: int, vision: dict, text: dict, pixels: tuple[int, int],
              sections: tuple[int, int, int]) -> Preset:
    special = (*_QWEN2_SPECIAL, *_VISION_SPECIAL)
    ids = {token: words + i for i, token in enumerate(special)}
    config = {
        'architectures': ['Qwen2VLForConditionalGeneration'], 'model_type': 'qwen2_vl',
        'dtype': 'bfloat16', 'tie_word_embeddings': text['tie_word_embeddings'],
        'image_token_id': ids['<|image_pad|>'], 'video_token_id': ids['<|video_pad|>'],
        'vision_start_token_id': ids['<|vision_start|>'],
        'vision_end_token_id': ids['<|vision_end|>'],
        'vision_config': {
            'model_type': 'qwen2_vl_vision', 'hidden_act': 'quick_gelu', 'in_channels': 3,
            'mlp_ratio': 4, 'patch_size': 14, 'spatial_merge_size': 2, 'temporal_patch_size': 2,
            **vision},
        'text_config': {
            'model_type': 'qwen2_vl_text', 'max_position_embeddings': 32768,
            'rms_norm_eps': 1e-6, 'use_sliding_window': False,
            'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6,
                                'mrope_section': list(sections)},
            'bos_token_id': ids['<|endoftext|>'], 'eos_token_id': ids['<|im_end|>'], **text},
    }
    common = {'processor_class': 'Qwen2VLProcessor', 'do_convert_rgb': True, 'do_normalize': True,
              'do_rescale': True, 'do_resize': True, 'resample': 3, 'rescale_factor': 1 / 255,
              'patch_size': 14, 'temporal_patch_size': 2, 'merge_size': 2,
              'size': {'shortest_edge': pixels[0], 'longest_edge': pixels[1]}, **_CLIP}
    files = {
        'preprocessor_config.json': {'image_processor_type': 'Qwen2VLImageProcessor', **common},
        'video_preprocessor_config.json': {
            'video_processor_type': 'Qwen2VLVideoProcessor', **common},
        'processor_config.json': {'processor_class': 'Qwen2VLProcessor'},
    }
    return Preset(name, config, words, special, '<|vision_start|><|image_pad|><|vision_end|>',
                  '<|vision_start|><|video_pad|><|vision_end|>', files)


def _vision(hidden: int, inner: int, layers: int, heads: int, side: int, patch: int = 14) -> dict:
    return {'hidden_size': hidden, 'intermediate_size': inner, 'num_hidden_layers': layers,
            'num_attention_heads': heads, 'image_size': side, 'patch_size': patch}


def _text(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int,
          tied: bool) -> dict:
    return {'hidden_size': hidden, 'intermediate_size': inner, 'num_hidden_layers': layers,
            'num_attention_heads': heads, 'num_key_value_heads': kv_heads,
            'vocab_size': vocabulary, 'tie_word_embeddings': tied, 'max_window_layers': layers}


_SO400M = _vision(1152, 4304, 26, 16, 384)  # SigLIP so400m without its last layer

PRESETS = {preset.name: preset for preset in (
    _llava_onevision('llava-onevision-0.5b', 151643, _SO400M,
                     _text(896, 4864, 24, 14, 2, 151936, tied=True)),
    _llava_onevision('llava-onevision-7b', 151643, _SO400M,
                     _text(3584, 18944, 28, 28, 4, 152064, tied=False)),
    _qwen2_vl('qwen2-vl-2b', 151643,
              {'depth': 32, 'embed_dim': 1280, 'hidden_size': 1536, 'num_heads': 16},
              _text(1536, 8960, 28, 12, 2, 151936, tied=True),
              pixels=(3136, 12845056), sections=(16, 24, 24)),
    # a decoder of 1.17 GB with next to nothing resident: what memory tests need
    _llava_onevision('llava-onevision-flash-1gb', 500, _vision(64, 128, 2, 2, 56),
                     _text(1024, 2816, 52, 16, 4, 512, tied=True)),
    _llava_onevision('tiny-llava-onevision', 500, _vision(32, 64, 2, 2, 56),
                     _text(64, 192, 3, 4, 2, 512, tied=True)),
    _qwen2_vl('tiny-qwen2-vl', 490,
              {'depth': 2, 'embed_dim': 32, 'hidden_size': 64, 'num_heads': 2},
              _text(64, 192, 3, 4, 2, 512, tied=False),
              pixels=(3136, 50176), sections=(2, 3, 3)),
)}
