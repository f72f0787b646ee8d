# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the families' prompt builders share: the chat template, cut at its images, the tokenizer.

A prompt is `head, part, part, ..., tail`: the template's text ahead of the first image, a part for
each image, the text behind. A part may depend on the image's number ('view two'). Pieces end
behind a special token, so that tokenising them apart gives what tokenising the whole gives; what
a part has behind its last special token (such as a line's end) opens the piece that follows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from neuron_chunk_ros.attention.segments import Segment
from neuron_chunk_ros.errors import ModelError, NeuronChunkError, RequestError, out_of_memory
from neuron_chunk_ros.families import trial
from neuron_chunk_ros.families.control_tokens import PromptTokenizer, Said
from neuron_chunk_ros.limits import DEFAULT_LIMITS, Limits
from neuron_chunk_ros.storage.side_files import SideFiles

_MARK = '\ue000'  # a question no template has in its own text
_MOST_TOKENS = 1 << 17  # of a small image
_AT_ONCE = 8  # numbers of images that are rendered in one go


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

    def __init__(self, files: SideFiles, config, limits: Limits = DEFAULT_LIMITS):
        """Read tokenizer and chat template. Raises BundleError or ModelError."""
        self.files, self.folder, self.config = files, files.folder, config
        self._seconds = limits.template_seconds
        with files.copies() as copies:
            self._copies = str(copies)
            self._read(copies)
        self._special = tuple(self.tokenizer.get_added_vocab())
        self._text = PromptTokenizer(self.tokenizer)
        self._template_name, self._template = self._find_template()
        self._rendered: dict[int, tuple[str, str]] = {}  # by images: text ahead of the question
        self._trims = False  # whether the template takes space off a question's ends
        self._render_first()
        self._ends: tuple[str, str] | None = None  # head, tail
        # By number: an image's text up to its last special token, and what follows.
        self._parts: dict[int, tuple[str, str]] = {}

    def _read(self, copies: Path) -> None:
        """Have libraries read the files, from a folder of copies."""
        if 'tokenizer.json' in self.files:
            try:
                trial.try_tokenizer(copies / 'tokenizer.json', self._seconds)
            except trial.TrialError as error:
                raise self.files.failure('tokenizer.json', str(error)) from error
        self.tokenizer = self._loaded('tokenizer', lambda: AutoTokenizer.from_pretrained(
            copies, local_files_only=True, trust_remote_code=False))

    def _loaded(self, what: str, load: Callable):
        """Return what a library makes of the files. Raises BundleError or ModelError."""
        try:
            return load()
        except Exception as error:  # whatever its own checks raise, or what it lacks checks for
            if out_of_memory(error):
                raise
            reason = ' '.join(str(error).split()) or type(error).__name__
            reason = reason.replace(self._copies, str(self.folder))
            raise self.files.failure(
                '', f'no usable {what} ({reason[:300]}); take its files from the model this '
                    'was converted from') from error

    @abstractmethod
    def tokens_of(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Return how many tokens images of these sizes (height, width) take, before any work.

        Raises RequestError for a size that the family can't take.
        """

    @abstractmethod
    def most_patches(self, images: int, context: int) -> tuple[int, int]:
        """Return how many patches a question's pictures have at most, and the values of each.

        :param images: that a question may have.
        :param context: tokens that there are at most.
        """

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
                pieces.append(self._ids(*text))
            ids = sum([*pieces, self._ids(*self._suffix_text(prompt, trail))], [])
        else:
            ids = self._ids(*self._whole(prompt, len(images)))
        inputs = {'input_ids': self._expand(ids, counts)}
        inputs['attention_mask'] = torch.ones_like(inputs['input_ids'])
        return inputs | pixels

    def check(self) -> None:
        """Try questions about one image and about two. Raises BundleError or ModelError."""
        for count in (1, 2):
            sizes, blank = [(64, 64)] * count, [np.zeros((64, 64, 3), np.uint8)] * count
            tokens = self._loaded('image processor', lambda sizes=sizes: self.tokens_of(sizes))
            if not all(0 < number <= _MOST_TOKENS for number in tokens):
                raise self.files.failure('', f'an image of 64 x 64 pixels takes {tokens[0]} '
                                             'tokens by its config and processor files')
            marks = self._ids(*self._whole('?', count)).count(self._placeholder_id)
            if marks != count:
                raise self.files.failure(
                    self._template_name, f'the chat template puts {marks} times '
                    f'{self.placeholder} into a prompt with {count} images')
            _, made = self._loaded('image processor', lambda blank=blank: self.encode(blank))
            if made != tokens:
                raise self.files.failure('', f'images of {tokens[0]} tokens come out as {made}')

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
        ids = self._expand(self._ids(*text), counts)
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
                pieces.append(self._ids(*text))
            pieces.append(self._ids(*self._suffix_text(prompt, trail)))
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
        return self._text_piece(*self._suffix_text(prompt, trail))

    def check_pieces(self) -> None:
        """Raise ModelError where pieces tokenised apart aren't the whole prompt's tokens."""
        first, trail = self._frame_text('', 0, '')
        second, trail = self._frame_text('', 1, trail)
        question = 'what is there?'
        pieces = [(self._cut()[0],), first, second, self._suffix_text(question, trail)]
        apart = [i for piece in pieces for i in self._ids(*piece)]
        if apart != self._ids(*self._whole(question, 2)):
            raise ModelError(f"{self.folder}: the chat template's text around images can't be "
                             "tokenised image by image; ask with all images at once instead")

    def can_say(self, name: str) -> bool:
        """Whether the vocabulary has all words of a name, and none is a special token."""
        if any(token in name for token in self._special):
            return False
        unknown = self.tokenizer.unk_token_id
        return unknown is None or unknown not in self._ids(Said(_name_text(name)))

    def chat(self, prompt: str, images: int) -> str:
        """Return the prompt in the model's chat format, one placeholder for each image."""
        return ''.join(self._whole(prompt, images))

    def _whole(self, prompt: str, images: int) -> tuple[str, ...]:
        before, after = self._around(images)
        return before, self._said(prompt), after

    def _said(self, prompt: str) -> Said:
        return Said(prompt.strip() if self._trims else prompt)

    def _around(self, images: int) -> tuple[str, str]:
        """Return the template's text ahead of a question about so many images, and behind it."""
        if images not in self._rendered:
            try:
                self._render(range(images, images + _AT_ONCE))
            except NeuronChunkError:  # a template may refuse more
                self._render([images])
        return self._rendered[images]

    def _render(self, numbers: Sequence[int]) -> None:
        for number, text in zip(numbers, self._said_around([(n, _MARK) for n in numbers]),
                                strict=True):
            if text.count(_MARK) != 1:
                raise self.files.failure(
                    self._template_name, f'the chat template has a question {text.count(_MARK)} '
                    f'times, once is needed (asked about {number} images)')
            before, _, after = text.partition(_MARK)
            self._rendered[number] = before, after

    def _render_first(self) -> None:
        self._render(range(3))
        self._trims = f' {_MARK} ' not in self._said_around([(0, f' {_MARK} ')])[0]

    def _said_around(self, asked: Sequence[tuple[int, str]]) -> list[str]:
        """Return the template's text for (images, question) each. Raises ModelError."""
        messages = [[{'role': 'user', 'content': [
            *({'type': self.image_part} for _ in range(images)),
            {'type': 'text', 'text': question}]}] for images, question in asked]
        # A list of additional tokens is none of a template's variables.
        variables = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()
                     if isinstance(token, str)}
        try:
            return trial.render(self._template, variables, messages,
                                max(images for images, _ in asked), self._seconds)
        except trial.TrialError as error:
            raise self.files.failure(self._template_name, f'the chat template: {error}'
                                     ) from error

    def _cut(self) -> tuple[str, str]:
        """Return the template's text ahead of the images and behind them."""
        if self._ends is None:
            without, one = self._marked(0), self._marked(1)
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
            before = self._marked(number)[:-len(tail)]
            after = self._marked(number + 1)
            text = after[len(before):-len(tail)]
            if (not after.startswith(before) or not after.endswith(tail)
                    or text.count(self.placeholder) != 1):
                raise self._uncuttable()
            end = max(text.rfind(t) + len(t) for t in self._special if t in text)
            self._parts[number] = text[:end], text[end:]
        return self._parts[number]

    def _marked(self, images: int) -> str:
        return _MARK.join(self._around(images))

    def _frame_text(self, name: str, number: int, trail: str) -> tuple[tuple[str, ...], str]:
        text, behind = self._part(number)
        said = Said(_name_text(name) if name and self.can_say(name) else '')
        return (trail, said, text), behind

    def _suffix_text(self, prompt: str, trail: str) -> tuple[str, ...]:
        head, _ = self._cut()
        before, after = self._around(0)
        if not before.startswith(head):
            raise self._uncuttable()
        return trail + before[len(head):], self._said(prompt), after

    def _uncuttable(self) -> ModelError:
        return ModelError(f"{self.folder}: the chat template can't be cut at its images; ask "
                          'with all images at once and without names instead')

    def _text_piece(self, *text: str) -> PromptPart:
        return PromptPart(torch.tensor([self._ids(*text)], dtype=torch.int64))

    def _ids(self, *text: str) -> list[int]:
        return self._text.encode(text)

    @property
    def _placeholder_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(self.placeholder)

    def _expand(self, ids: list[int], counts: list[int]) -> torch.Tensor:
        """Repeat each placeholder as often as its image has tokens: int64 [1, tokens]."""
        left, token = iter(counts), self._placeholder_id
        return torch.tensor([[one for i in ids
                              for one in ([i] * next(left) if i == token else [i])]])

    def _find_template(self) -> tuple[str, str]:
        """Return the chat template and the file it is in. Raises BundleError or ModelError."""
        # Older folders keep the processor's template in a JSON file of its own.
        found = [('chat_template.jinja', lambda: self.files.text('chat_template.jinja')),
                 ('chat_template.json',
                  lambda: self.files.json('chat_template.json').get('chat_template')),
                 ('tokenizer_config.json', lambda: self.tokenizer.chat_template)]
        for name, read in found:
            if name in self.files and (template := read()) is not None:
                if not isinstance(template, str):
                    raise self.files.failure(name, 'its chat template is no text')
                return name, template
        raise self.files.failure('', 'no chat template (chat_template.jinja); take it from the '
                                     'model this was converted from')


def _image(visual: torch.Tensor) -> Segment:
    """Return an image's segment: bool [tokens], False where its tokens are text."""
    return Segment(len(visual), True, tuple((~visual).nonzero()[:, 0].tolist()))


def _name_text(name: str) -> str:
    return f'{name}: '
