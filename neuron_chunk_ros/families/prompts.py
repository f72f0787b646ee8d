# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the families' prompt builders share: the chat template, cut at its images, the tokenizer.

A prompt is `head, part, part, ..., tail`: the template's text ahead of the first image, a part for
each image, the text behind. A part may depend on the image's number ('view two'). Pieces end
behind a special token, so that tokenising them apart gives what tokenising the whole gives; what
a part has behind its last special token (such as a line's end) opens the piece that follows.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, GenerationConfig

from neuron_chunk_ros.attention.segments import Segment
from neuron_chunk_ros.errors import BundleError, ModelError, RequestError

_MARK = '\ue000'  # a question no template has in its own text


@dataclass(frozen=True, eq=False)
class PromptPart:
    """A part of a prompt that goes through the decoder in one step."""

    ids: torch.Tensor                       # int64 [1, tokens]
    pixels: dict[str, torch.Tensor] = field(default_factory=dict)  # by the family's names
    visual: torch.Tensor | None = None      # bool [tokens], True at visual tokens
    trail: str = ''                         # text that opens the next piece
    segments: tuple[Segment, ...] = ()      # what the tokens are; () for text

    @property
    def tokens(self) -> int:
        """How many there are."""
        return self.ids.shape[1]

    def to(self, device, dtype: torch.dtype) -> PromptPart:
        """Return it on a device, pixels in the model's dtype."""
        pixels = {name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
                  for name, value in self.pixels.items()}
        visual = None if self.visual is None else self.visual.to(device)
        return PromptPart(self.ids.to(device), pixels, visual, self.trail, self.segments)


class PromptBuilder(ABC):
    """Builds the inputs of one question. Subclasses know how their family encodes images."""

    image_part = 'image'           # what the family's chat template calls a picture
    placeholder: str               # what its text has in a picture's place
    visual_ids: tuple[int, ...]    # token numbers that stand for visual features
    most_ratio = math.inf          # of an image's sides
    not_pixels: tuple[str, ...] = ('attention_mask',)  # of what `build` returns beside input_ids

    def __init__(self, folder: Path, config):
        self.folder, self.config = Path(folder), config
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BundleError(f'{folder}: no usable tokenizer ({error})') from error
        template = self._template()
        if template is None:
            raise BundleError(f'{folder}: no chat template (chat_template.jinja); take it from '
                              'the model this bundle was converted from')
        self.tokenizer.chat_template = template
        self._special = tuple(self.tokenizer.get_added_vocab())
        self._ends: tuple[str, str] | None = None  # head, tail
        # By number: an image's text up to its last special token, and what follows.
        self._parts: dict[int, tuple[str, str]] = {}

    @classmethod
    def check_size(cls, height: int, width: int) -> None:
        """Raise RequestError for the size of an image that the family can't take."""
        if max(height, width) > cls.most_ratio * min(height, width):
            raise RequestError(
                f'an image is {width} x {height} pixels: this model takes none of which one side '
                f'is more than {cls.most_ratio} times the other; cut or resize it')

    @abstractmethod
    def encode(self, images: Sequence[np.ndarray]) -> tuple[dict[str, torch.Tensor], list[int]]:
        """Return the family's pixel tensors, and how many tokens each image takes.

        :param images: uint8 [height, width, 3] RGB each, at least one.
        :raises RequestError: for one of a size that the family can't take, see check_size.
        """

    def build(self, prompt: str, images: Sequence[np.ndarray],
              names: Sequence[str] = ()) -> dict[str, torch.Tensor]:
        """Return keyword arguments for the model.

        :param images: uint8 [height, width, 3] RGB each.
        :param names: told to the model ahead of its image, one each; '' for none.
        :return: input_ids and attention_mask [1, tokens], and the family's pixel tensors.
        """
        pixels, counts = self.encode(images) if len(images) else ({}, [])
        if any(names):
            pieces, trail = [self._ids(self._cut()[0])], ''
            for number, name in enumerate(names):
                text, trail = self._frame_text(name, number, trail)
                pieces.append(self._ids(text))
            ids = sum([*pieces, self._ids(self._suffix_text(prompt, trail))], [])
        else:
            ids = self._ids(self.chat(prompt, len(images)))
        inputs = {'input_ids': self._expand(ids, counts)}
        inputs['attention_mask'] = torch.ones_like(inputs['input_ids'])
        return inputs | pixels

    def position_arguments(self, part: PromptPart) -> dict[str, torch.Tensor | None]:
        """Return what the model's `get_rope_index`, where it has one, is told beside the ids."""
        return {}

    def prefix(self) -> PromptPart:
        """Return the text ahead of the first image. Raises ModelError: see `check_pieces`."""
        return self._text_piece(self._cut()[0])

    def frame(self, encoded: tuple[dict[str, torch.Tensor], list[int]], name: str, number: int,
              trail: str) -> PromptPart:
        """Return an image's piece.

        :param encoded: what `encode` returned for the image alone.
        :param number: of the image, from 0, as the template counts them.
        :param trail: of the frame ahead of it; '' for none.
        """
        pixels, counts = encoded
        text, trail = self._frame_text(name, number, trail)
        ids = self._expand(self._ids(text), counts)
        visual = torch.isin(ids[0], torch.tensor(self.visual_ids))
        return PromptPart(ids, pixels, visual, trail, (_image(visual),))

    def segments(self, prompt: str, names: Sequence[str], visual: torch.Tensor
                 ) -> tuple[Segment, ...]:
        """Return what the tokens of a whole prompt are; () where its template can't be cut.

        :param names: of its images, '' for none.
        :param visual: bool [tokens] of what `build` returned, True at visual tokens.
        """
        try:
            pieces, trail = [self._ids(self._cut()[0])], ''
            for number, name in enumerate(names):
                text, trail = self._frame_text(name, number, trail)
                pieces.append(self._ids(text))
            pieces.append(self._ids(self._suffix_text(prompt, trail)))
        except ModelError:
            return ()
        # Of an image's tokens a piece has the placeholder alone; they lie in one run each.
        edges = np.flatnonzero(np.diff(np.pad(visual.cpu().numpy(), 1).astype(np.int8)))
        runs = (edges[1::2] - edges[::2]).tolist()
        if len(runs) != len(names):
            return ()  # images side by side: whose tokens are whose can't be told
        found, at = [Segment(len(pieces[0]))], len(pieces[0])
        for piece, more in zip(pieces[1:-1], runs, strict=True):
            end = at + len(piece) - 1 + more
            found.append(_image(visual[at:end]))
            at = end
        whole = (*found, Segment(len(pieces[-1])))
        return whole if sum(one.tokens for one in whole) == len(visual) else ()

    def suffix(self, prompt: str, trail: str) -> PromptPart:
        """Return the text behind the last image: the question, and where the answer begins."""
        return self._text_piece(self._suffix_text(prompt, trail))

    def check_pieces(self) -> None:
        """Raise ModelError where pieces tokenised apart aren't the whole prompt's tokens."""
        first, trail = self._frame_text('', 0, '')
        second, trail = self._frame_text('', 1, trail)
        question = 'what is there?'
        pieces = [self._cut()[0], first, second, self._suffix_text(question, trail)]
        if sum(map(self._ids, pieces), []) != self._ids(self.chat(question, 2)):
            raise ModelError(f"{self.folder}: the chat template's text around images can't be "
                             "tokenised image by image; ask with all images at once instead")

    def can_say(self, name: str) -> bool:
        """Whether the vocabulary has all words of a name, and none is a special token."""
        if any(token in name for token in self._special):
            return False
        unknown = self.tokenizer.unk_token_id
        return unknown is None or unknown not in self._ids(_name_text(name))

    def chat(self, prompt: str, images: int) -> str:
        """Return the prompt in the model's chat format, one placeholder for each image."""
        parts = [{'type': self.image_part} for _ in range(images)]
        content = [*parts, {'type': 'text', 'text': prompt}]
        return self.tokenizer.apply_chat_template(
            [{'role': 'user', 'content': content}], tokenize=False, add_generation_prompt=True)

    def settings(self, name: str) -> dict:
        """Return one of the bundle's processor files, {} where it has none."""
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else {}

    def _cut(self) -> tuple[str, str]:
        """Return the template's text ahead of the images and behind them."""
        if self._ends is None:
            without, one = self.chat(_MARK, 0), self.chat(_MARK, 1)
            head = commonprefix([without, one])
            tail = without[len(head):]
            if not one.endswith(tail) or _MARK not in tail or len(one) <= len(without):
                raise self._uncuttable()
            self._ends = head, tail
        return self._ends

    def _part(self, number: int) -> tuple[str, str]:
        """Return an image's text, split behind its last special token."""
        if number not in self._parts:
            head, tail = self._cut()
            before = self.chat(_MARK, number)[:-len(tail)]
            after = self.chat(_MARK, number + 1)
            text = after[len(before):-len(tail)]
            if (not after.startswith(before) or not after.endswith(tail)
                    or text.count(self.placeholder) != 1):
                raise self._uncuttable()
            end = max(text.rfind(t) + len(t) for t in self._special if t in text)
            self._parts[number] = text[:end], text[end:]
        return self._parts[number]

    def _frame_text(self, name: str, number: int, trail: str) -> tuple[str, str]:
        text, behind = self._part(number)
        return trail + (_name_text(name) if name and self.can_say(name) else '') + text, behind

    def _suffix_text(self, prompt: str, trail: str) -> str:
        head, _ = self._cut()
        whole = self.chat(prompt, 0)
        if not whole.startswith(head):
            raise self._uncuttable()
        return trail + whole[len(head):]

    def _uncuttable(self) -> ModelError:
        return ModelError(f"{self.folder}: the chat template can't be cut at its images; ask "
                          'with all images at once and without names instead')

    def _text_piece(self, text: str) -> PromptPart:
        return PromptPart(torch.tensor([self._ids(text)], dtype=torch.int64))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _expand(self, ids: list[int], counts: list[int]) -> torch.Tensor:
        """Repeat each placeholder as often as its image has tokens: int64 [1, tokens]."""
        left = iter(counts)
        token = self.tokenizer.convert_tokens_to_ids(self.placeholder)
        return torch.tensor([[one for i in ids
                              for one in ([i] * next(left) if i == token else [i])]])

    def _template(self) -> str | None:
        plain = self.folder / 'chat_template.jinja'
        if plain.exists():
            return plain.read_text()
        # Older folders keep the processor's template in a JSON file of its own.
        return self.settings('chat_template.json').get(
            'chat_template', self.tokenizer.chat_template)


def _image(visual: torch.Tensor) -> Segment:
    """Return an image's segment: bool [tokens], False where its tokens are text."""
    return Segment(len(visual), True, tuple((~visual).nonzero()[:, 0].tolist()))


def _name_text(name: str) -> str:
    return f'{name}: '


def stop_tokens(folder: Path, config, prompts: PromptBuilder) -> set[int]:
    """Return a model's own end tokens. Raises BundleError where nothing names one."""
    try:
        own = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:
        own = GenerationConfig.from_model_config(config)
    stops = own.eos_token_id
    if stops is None:
        stops = prompts.tokenizer.eos_token_id
    if stops is None:
        raise BundleError(f'{folder}: neither generation_config.json nor the tokenizer names an '
                          'end token')
    return set(stops if isinstance(stops, list) else [stops])
