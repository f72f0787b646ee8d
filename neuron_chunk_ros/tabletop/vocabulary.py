# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tabletop model's tokenizer: one token a word, plus the markers of a chat with images."""

import re

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from neuron_chunk_ros.tabletop.questions import ANSWERS, NUMBERS, PLURALS, WORDINGS
from neuron_chunk_ros.tabletop.scenes import COLOURS, SHAPES

PAD, UNKNOWN, START, END = '<|pad|>', '<|unknown|>', '<|im_start|>', '<|im_end|>'
VISION_START, VISION_END = '<|vision_start|>', '<|vision_end|>'
IMAGE, VIDEO = '<image>', '<video>'
SPECIAL = (PAD, UNKNOWN, START, END, VISION_START, VISION_END, IMAGE, VIDEO)

# A camera frame is a one-frame video to this family: 16 pooled tokens and a newline. Each has
# delimiters and a number of its own, so that questions can speak of "view two".
CHAT_TEMPLATE = (
    "{% set names = ['one', 'two', 'three', 'four'] %}"
    '{% for message in messages %}'
    "{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    '{% set count = namespace(views=0) %}'
    "{% for part in message['content'] %}"
    "{% if part['type'] in ['image', 'video'] %}"
    "{{ 'view ' + (names[count.views] if count.views < 4 else '') + "
    "' <|vision_start|><video><|vision_end|>' }}"
    '{% set count.views = count.views + 1 %}'
    "{% else %}{{ part['text'] }}{% endif %}"
    '{% endfor %}{% endif %}'
    "{{ '<|im_end|>' }}"
    '{% endfor %}'
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant ' }}{% endif %}"
)


def words() -> list[str]:
    """Every word a question or an answer can hold, in a fixed order."""
    found = set(COLOURS) | set(SHAPES) | {f'{s}s' for s in SHAPES} | set(PLURALS.values())
    found |= set(NUMBERS) | {w for a in ANSWERS for w in a.split()}
    for wordings in WORDINGS.values():
        for text in wordings:
            found |= set(re.findall(r'\w+|[^\w\s]', re.sub(r'\{\w+\}', ' ', text)))
    return sorted(found | {'user', 'assistant', 'system', 'view'})


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer; the same on every call."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *words()))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    # People also write "color"; the answer is the same.
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace('color', 'colour')])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r'\w+|[^\w\s]'), behavior='removed', invert=True)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=END,
        additional_special_tokens=[START, VISION_START, VISION_END, IMAGE, VIDEO],
        model_max_length=1024, clean_up_tokenization_spaces=False)
    fast.chat_template = CHAT_TEMPLATE
    return fast
