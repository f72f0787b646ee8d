# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is asked, and how far from the plain model's an answer is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from neuron_chunk_ros.bench.planes.sharing import units_of
from neuron_chunk_ros.bench.statistics import RESAMPLES, Interval, interval
from neuron_chunk_ros.tabletop.exam import Exam
from neuron_chunk_ros.tabletop.network import answer_logits

Enter = Callable[[torch.Tensor], None]


class Judge(Protocol):
    """Has a model answer, and scores it."""

    unit: str                  # of what `against` returns
    modes: Sequence[str]       # who chooses rows

    def __len__(self) -> int:
        """Count the passes."""

    def answer(self, model, mode: str, enter: Enter, progress: Callable[[], None]) -> np.ndarray:
        """Return a score for each item; `enter` is told each pass's units ahead of it."""

    def hear(self, model) -> None:
        """Run some passes, for importance."""

    def value(self, scores: np.ndarray) -> float:
        """Return what a table shows of them."""

    def against(self, scores: np.ndarray, plain: np.ndarray) -> Interval:
        """Return the error beside the plain model's, in `unit`."""


class Questions:
    """An exam about pictures: the share of questions answered right."""

    unit = 'points lost'
    modes = ('frames', 'frames and words')

    def __init__(self, exam: Exam, seed: int):
        """`seed`: of the bootstrap."""
        self._exam, self._seed = exam, seed

    def __len__(self) -> int:
        """See Judge."""
        return len(self._exam.sheets)

    def answer(self, model, mode: str, enter: Enter, progress: Callable[[], None]) -> np.ndarray:
        """See Judge: whether each question is answered right."""
        words = mode == self.modes[1]
        return self._exam.right(model, lambda sheet: enter(units_of(sheet, words)), progress)

    @torch.inference_mode()
    def hear(self, model) -> None:
        """See Judge."""
        for sheet in self._exam.sheets[:2]:
            answer_logits(model, sheet.batch, sheet.features)

    def value(self, scores: np.ndarray) -> float:
        """See Judge."""
        return float(scores.mean())

    def against(self, scores: np.ndarray, plain: np.ndarray) -> Interval:
        """See Judge; of all questions alike, resampled by picture."""
        lost = 100.0 * (plain.astype(float) - scores)
        pictures = int(self._exam.prompts.max()) + 1
        sums = np.bincount(self._exam.prompts, lost, pictures)
        counts = np.bincount(self._exam.prompts, minlength=pictures)
        draws = np.random.default_rng(self._seed).integers(0, pictures, (RESAMPLES, pictures))
        return interval(lost.mean(), sums[draws].sum(1) / counts[draws].sum(1))


class Prose:
    """Windows of prose: perplexity."""

    unit = '% more perplexity'
    modes = ('64 words alike', 'each word by itself')

    def __init__(self, windows: torch.Tensor, seed: int):
        """`windows` int64 [n, tokens]."""
        self._windows, self._seed = windows, seed

    def __len__(self) -> int:
        """See Judge."""
        return len(self._windows)

    @torch.inference_mode()
    def answer(self, model, mode: str, enter: Enter, progress: Callable[[], None]) -> np.ndarray:
        """See Judge: the mean loss of each window."""
        losses, sharing = [], 64 if mode == self.modes[0] else 1
        for window in self._windows:
            enter(torch.arange(len(window))[None] // sharing)
            logits = model(input_ids=window[None]).logits[0, :-1].float()
            losses.append(float(functional.cross_entropy(logits, window[1:])))
            progress()
        return np.array(losses)

    @torch.inference_mode()
    def hear(self, model) -> None:
        """See Judge."""
        for window in self._windows[:2]:
            model(input_ids=window[None])

    def value(self, scores: np.ndarray) -> float:
        """See Judge."""
        return float(np.exp(scores.mean()))

    def against(self, scores: np.ndarray, plain: np.ndarray) -> Interval:
        """See Judge; resampled by window."""
        more = scores - plain
        draws = np.random.default_rng(self._seed).integers(0, len(more), (RESAMPLES, len(more)))
        return interval(100 * (np.exp(more.mean()) - 1), 100 * (np.exp(more[draws].mean(1)) - 1))
