# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Questions with known answers, asked before and after: what compressing costs in answers.

A file has a JSON object a line: `prompt`, `answer`, `type` (optional) and `images`, paths from the
file's folder. An answer is right where it is the known one, whatever its case and full stop.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.picture_file import read_picture
from neuron_chunk_ros.plain_file import read_text

MOST_TOKENS = 32  # of an answer
_MOST_BYTES = 64 << 20  # of a file of questions
_KEYS = {'prompt': str, 'answer': str, 'images': list, 'type': str}

Fits = Callable[[np.ndarray], None]
Ask = Callable[[str, list[np.ndarray]], str]  # a prompt and its images -> the model's answer


@dataclass(frozen=True)
class ExamQuestion:
    """A question, its pictures, and the one right answer."""

    prompt: str
    answer: str
    images: tuple[Path, ...]
    type: str = 'all'


@dataclass
class Answers:
    """How many answers of each type are right."""

    asked: Counter = field(default_factory=Counter)
    before: Counter = field(default_factory=Counter)
    after: Counter = field(default_factory=Counter)

    def shares(self, right: Counter) -> dict[str, float]:
        """Return the share that is right by type."""
        return {kind: right[kind] / asked for kind, asked in self.asked.items()}

    def text(self) -> str:
        """Return a line for each type, and the mean of types."""
        before, after = self.shares(self.before), self.shares(self.after)
        rows = [(kind, self.asked[kind], before[kind], after[kind]) for kind in self.asked]
        rows.append(('mean of types', self.asked.total(), np.mean([*before.values()]),
                     np.mean([*after.values()])))
        return '\n'.join([f'{"answers right":<18} {"asked":>6} {"before":>7} {"after":>7}', *(
            f'{kind:<18} {asked:>6} {was:>7.3f} {now:>7.3f}' for kind, asked, was, now in rows)])

    def record(self) -> dict:
        """Return it as plain values."""
        return {kind: {'asked': asked, 'before': self.before[kind], 'after': self.after[kind]}
                for kind, asked in self.asked.items()}


class Exam:
    """The questions of a file."""

    def __init__(self, questions: Sequence[ExamQuestion]):
        self.questions = list(questions)
        self.answers = Answers(Counter(question.type for question in self.questions))

    @classmethod
    def load(cls, path: Path, fits: Fits = lambda image: None) -> Exam:
        """Read a file and check that its pictures can be used. Raises RequestError with the line.

        :param fits: raises RequestError for a picture that the model can't take.
        """
        try:
            lines = read_text(path, _MOST_BYTES).splitlines()
        except (OSError, ValueError) as error:
            raise RequestError(f'{path}: not a readable file of questions ({error})') from error
        found = [_question(line, path.parent, f'{path}:{number}')
                 for number, line in enumerate(lines, 1) if line.strip()]
        if not found:
            raise RequestError(f'{path}: no question in it; give a JSON object a line, with '
                               'prompt, answer, images')
        for picture in dict.fromkeys(image for question in found for image in question.images):
            image = read_picture(picture)  # now, not after an hour of compressing
            try:
                fits(image)
            except RequestError as error:
                raise RequestError(f'{picture}: {error}') from error
        return cls(found)

    def ask(self, ask: Ask, after: bool, tell: Callable[[float], None] = lambda share: None
            ) -> None:
        """Ask all and enter how many are right.

        :raises RequestError: for a picture that can't be read, or what `ask` raises.
        """
        right = self.answers.after if after else self.answers.before
        for number, question in enumerate(self.questions, 1):
            images = [read_picture(path) for path in question.images]
            right[question.type] += _plain(ask(question.prompt, images)) == _plain(question.answer)
            tell(number / len(self.questions))


def _plain(answer: str) -> str:
    return answer.strip().rstrip('.').casefold()


def _question(line: str, folder: Path, where: str) -> ExamQuestion:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise RequestError(f'{where}: not a JSON object ({error})') from error
    if not isinstance(values, dict):
        raise RequestError(f'{where}: not a JSON object')
    for key, kind in _KEYS.items():
        if key != 'type' and key not in values:
            raise RequestError(f'{where}: {key} is missing')
        if not isinstance(values.get(key, kind()), kind):
            raise RequestError(f'{where}: {key} must be a {"list" if kind is list else "text"}')
    for key in values.keys() - _KEYS.keys():
        raise RequestError(f'{where}: {key}: no such key (known: {", ".join(_KEYS)})')
    images = values['images']
    for image in images:
        if not isinstance(image, str):
            raise RequestError(f'{where}: images must be paths')
        if '\0' in image or not (folder / image).is_file():
            raise RequestError(f'{where}: no picture {folder / image}')
    if not values['prompt'].strip() or not _plain(values['answer']):
        raise RequestError(f'{where}: prompt and answer must not be empty')
    return ExamQuestion(values['prompt'], values['answer'],
                        tuple(folder / image for image in images),
                        values.get('type', ExamQuestion.type))
