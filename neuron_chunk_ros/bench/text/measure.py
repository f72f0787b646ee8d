# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Perplexity, and the next token of bfloat16 found again, through our engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from neuron_chunk_ros.bench.prose import WINDOW, prose, windows
from neuron_chunk_ros.bench.text.answers import QUESTIONS, Spoken, speak, texts
from neuron_chunk_ros.compress import bundles
from neuron_chunk_ros.compress import recipe as recipes
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.families import PromptPart
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.splits import rows_and_base
from neuron_chunk_ros.storage.bundle import Bundle

_SAMPLE = 1200  # letters of prose that a calibration sample has


@dataclass(frozen=True)
class TextOptions:
    """What is measured."""

    model: Path                   # a Hugging Face folder
    rows: tuple[str, ...] = ('int8', 'int4', 'int4-64')     # converted, rounded to nearest
    recipes: tuple[str, ...] = ('int8', 'int4')
    splits: tuple[str, ...] = ('int8/4', 'int8/3')  # rows in two parts: FORMAT/bits of the base
    shares: tuple[float, ...] = (0.3, 0.5)  # of rows read, or refined, when not all are
    sharing: tuple[int, ...] = (64, 1)      # tokens that share a choice of rows
    windows: int = 12
    samples: int = 64             # of other prose, to calibrate recipes on
    questions: int = len(QUESTIONS)  # asked of rows in two parts, with drafts and without


@dataclass(frozen=True)
class Way:
    """How a bundle is asked."""

    label: str = ''
    step: str = 'prefill'     # 'draft': with what is held alone
    share: float = 1.0        # of rows read
    sharing: int = WINDOW     # tokens that share a choice of them


@dataclass(frozen=True)
class Outcome:
    """What one bundle says of the prose, asked in one way."""

    how: str                      # 'bfloat16', 'rounded int4', 'recipe int4', 'int8/4, all fine'
    loss: np.ndarray              # float64 [windows]: mean of -log p(next token)
    choices: np.ndarray           # int64 [windows, WINDOW - 1]: the likeliest next tokens
    decoder_bytes: int
    flash_bytes: int

    @property
    def perplexity(self) -> float:
        """Exp of the mean loss."""
        return math.exp(float(self.loss.mean()))


def measure(options: TextOptions, folder: Path, progress: Callable[[str, int, int], None]
            ) -> tuple[list[Outcome], list[Spoken]]:
    """Make each bundle in a scratch folder, have it read the prose and answer, remove it.

    Raises ModelError for an unknown row format; RecipeError.
    """
    for name in options.rows:
        rows_and_base(name)
    loaded = {name: recipes.load(name) for name in options.recipes}
    splits = {name: rows_and_base(name) for name in options.splits}
    ways = [Way(f'{share:.0%} of the rows, {_tokens(sharing)}', 'prefill', share, sharing)
            for sharing in options.sharing for share in options.shares]
    wanted, other = prose()
    ids = windows(options.model, wanted, options.windows)
    plain = folder / 'plain'
    convert(options.model, plain, 'bfloat16')
    outcomes, spoken = [], []
    questions = QUESTIONS[:options.questions]

    def ask(how: str, path: Path) -> None:
        if questions and Bundle.open(path).bases:
            spoken.append(speak(how, path, said, questions, lambda done: progress(
                f'{how}: questions', done, len(questions))))

    def judge(how: str, path: Path, ways: Sequence[Way] = (Way(),)) -> None:
        with Session.open(path, policy='topk', drafts=False, max_context=WINDOW) as session:
            for way in ways:
                label = ', '.join(filter(None, (how, way.label)))
                session.configure(text_sparsity=1 - way.share)
                outcomes.append(_judged(label, session, ids, way, lambda done, label=label:
                                        progress(label, done, len(ids))))

    in_two = [Way('all refined'), *ways, Way('base alone', 'draft')]
    judge('bfloat16', plain, [Way(), *ways])
    said = texts(plain, questions, lambda done: progress('bfloat16: questions', done,
                                                         len(questions)))
    for name in options.rows:
        with _removed(folder / 'packed') as path:
            convert(options.model, path, 'bfloat16', rows=name)
            judge(f'rounded {name}', path)
    for name, (rows, base) in splits.items():
        with _removed(folder / 'packed') as path:
            convert(options.model, path, 'bfloat16', rows=rows, base=base)
            judge(name, path, in_two)
            ask(name, path)
    for name, recipe in loaded.items():
        with _removed(folder / 'packed') as path:
            bundles.compress(plain, path, recipe, _samples(other, options.samples),
                             progress=lambda share, name=name: progress(
                                 f'recipe {name}: compressing', round(100 * share), 100))
            judge(f'recipe {name}', path, in_two if Bundle.open(path).bases else [Way()])
            ask(f'recipe {name}', path)
    return outcomes, spoken


def _tokens(sharing: int) -> str:
    return 'each token its own' if sharing == 1 else f'{sharing} tokens alike'


def _samples(text: str, number: int) -> list[tuple[str, list]]:
    step = max(1, len(text) // number)
    return [(text[at:at + _SAMPLE], []) for at in range(0, step * number, step)]


def _judged(how: str, session: Session, ids: torch.Tensor, way: Way,
            tell: Callable[[int], None]) -> Outcome:
    losses, choices = [], []
    for number, window in enumerate(ids):
        logits = logits_of(session, window, way)[:-1]
        losses.append(float(torch.nn.functional.cross_entropy(logits, window[1:])))
        choices.append(logits.argmax(dim=1).numpy())
        tell(number + 1)
    return Outcome(how, np.array(losses), np.stack(choices), session.bundle.decoder_bytes,
                   session.bundle.flash_bytes)


@torch.inference_mode()
def logits_of(session: Session, ids: Sequence[int] | torch.Tensor, way: Way = Way()  # noqa: B008
              ) -> torch.Tensor:
    """Return the logits behind each of some tokens, float32 [tokens, vocabulary]."""
    cache, start, found = session._memory.cache(0), 0, []
    with session._runner.work(None, None, None):
        for part in torch.as_tensor(ids).split(way.sharing):
            piece = PromptPart(part[None])
            start, _, logits = session._runner.step(way.step, piece, cache, start,
                                                    logits=piece.tokens)
            found.append(logits)
    cache.truncate(0)
    return torch.cat(found)


@contextmanager
def _removed(folder: Path) -> Iterator[Path]:
    import shutil
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
