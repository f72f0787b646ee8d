# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A tokenizer made offline: bytes, filler words no text becomes, and a family's special tokens."""

from __future__ import annotations

import json
from pathlib import Path

from neuron_chunk_ros.prepare.presets import Preset

_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ IMAGE }}"
    "{% elif part['type'] == 'video' %}{{ VIDEO }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def write_tokenizer(preset: Preset, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Byte-level BPE without merges, so that any text can be written; every id the model can name
    below the special tokens decodes to something, so that a random model's answer is visible.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if preset.words < len(alphabet):
        raise ValueError(f'preset {preset.name}: {preset.words} words cannot hold every byte')
    vocabulary = {symbol: i for i, symbol in enumerate(alphabet)}
    for i in range(len(alphabet), preset.words):
        vocabulary[f'\u0120w{i}'] = i  # byte-level BPE's spelling of a space and a word
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in preset.special_tokens])
    tokenizer.save(str(folder / 'tokenizer.json'))

    settings = {
        'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': 32768,
        'bos_token': None, 'eos_token': '<|im_end|>', 'pad_token': '<|endoftext|>',
        'clean_up_tokenization_spaces': False, 'padding_side': 'left',
        'processor_class': preset.files['processor_config.json']['processor_class'],
    }
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings, indent=1) + '\n')
    (folder / 'chat_template.jinja').write_text(
        chat_template(preset.image_text, preset.video_text))


def chat_template(image: str, video: str) -> str:
    """Return a chat template of <|im_start|> and <|im_end|>.

    :param image, video: what stands for a picture in a prompt.
    """
    return _TEMPLATE.replace('IMAGE', _literal(image)).replace('VIDEO', _literal(video))


def _literal(text: str) -> str:
    return "'" + text.replace('\n', '\\n') + "'"
