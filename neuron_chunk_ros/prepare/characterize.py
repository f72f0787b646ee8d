# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Characterising a model's heads: which never look at other images (BlindSight, section 3).

Every prompt goes through the model densely; beside, each head's output is computed under each
template. Of the templates whose output stays within a tolerance on nearly all prompts, a head's
class is the sparsest. How far the tolerance may go is searched: the largest at which the first
word's distribution, over the same prompts, drifts no further than was asked for.

The engine does the passes, so a model larger than memory is characterised like any other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from neuron_chunk_ros import __version__
from neuron_chunk_ros.attention.regrouping import attend
from neuron_chunk_ros.attention.templates import DENSE, NAMES, density
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.storage.annotate import store_attention
from neuron_chunk_ros.storage.bundle import Bundle

SCHEDULES = ('constant', 'linear')
AGREEING = 0.9     # of the prompts have to be within the tolerance
MOST_DRIFT = 0.001  # nats
_STEPS = 7         # of the search
_LOOSEST = 1.0     # tolerance: the output may be something else altogether
Prompt = tuple[str, Sequence[np.ndarray]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Heard:
    """What the templates did to each head's output, and how dense they are."""

    errors: np.ndarray     # float32 [prompts, layers, heads, templates], relative L2 error
    densities: np.ndarray  # float64 [templates], mean over prompts
    logits: torch.Tensor   # float32 [prompts, vocabulary], of the first word


def tolerances(tolerance: float, schedule: str, layers: int) -> np.ndarray:
    """Return each layer's: all alike, or rising to twice the mean in the last one."""
    if schedule == 'constant':
        return np.full(layers, tolerance)
    return tolerance * 2 * np.arange(1, layers + 1) / (layers + 1)


def classes_of(heard: Heard, tolerance: float, schedule: str,
               agreeing: float = AGREEING) -> list[list[int]]:
    """Return each head's class: of those good enough on nearly all prompts, the sparsest."""
    layers = heard.errors.shape[1]
    within = heard.errors <= tolerances(tolerance, schedule, layers)[None, :, None, None]
    good = within.mean(axis=0) >= agreeing
    good[..., DENSE] = True
    cost = np.where(good, heard.densities, np.inf)
    return cost.argmin(axis=-1).tolist()


@torch.inference_mode()
def hear(session: Session, prompts: Sequence[Prompt], progress: Callable[[], None]) -> Heard:
    """Run all prompts densely and every template beside."""
    errors, densities, logits = [], [], []
    for prompt in prompts:
        mine: dict[int, np.ndarray] = {}

        def listen(layer, query, key, value, segments, scale, mine=mine) -> None:
            mine[layer] = _errors(query, key, value, segments, scale)

        session._attending.listener = listen
        try:
            logits.append(_first_word(session, prompt))
        finally:
            session._attending.listener = None
        errors.append(np.stack([mine[layer] for layer in sorted(mine)]))
        densities.append([density(session._attending.segments, kind)
                          for kind in range(len(NAMES))])
        progress()
    return Heard(np.stack(errors), np.mean(densities, axis=0), torch.stack(logits))


def _errors(query, key, value, segments, scale) -> np.ndarray:
    """Return each head's relative error under each template: float32 [heads, templates]."""
    first = key.shape[2] - query.shape[2]
    rows = torch.cat([torch.arange(start, start + one.tokens) for start, one in segments
                      if one.image]) - first
    rows = rows[rows >= 0].to(query.device)
    heads = query.shape[1]

    def seen(kind: int) -> torch.Tensor:
        return attend(query, key, value, segments, [kind] * heads, scale)[0, :, rows].float()

    plain = seen(DENSE)
    norm = plain.flatten(1).norm(dim=1).clamp(min=1e-20)
    errors = [torch.zeros_like(norm) if kind == DENSE
              else (seen(kind) - plain).flatten(1).norm(dim=1) / norm
              for kind in range(len(NAMES))]
    return torch.stack(errors, dim=1).cpu().numpy()


def _first_word(session: Session, prompt: Prompt) -> torch.Tensor:
    piece = session._inputs.whole(prompt[0], prompt[1], None)
    if sum(one.image for one in piece.segments) < 2:
        raise RequestError("this model's chat template can't be cut at its images: which tokens "
                           'are whose is not known, and heads have no classes')
    cache = session._memory.cache(0)
    with session._runner.work(None, None, None):
        _, _, logits = session._runner.step('prefill', piece, cache, 0, logits=1)
    return logits[0].float().cpu()


@torch.inference_mode()
def drift(session: Session, prompts: Sequence[Prompt], heard: Heard, classes: list[list[int]],
          progress: Callable[[], None]) -> float:
    """Return the mean KL divergence of the first word's distribution from the dense one, nats."""
    before = session._attending.classes
    session._attending.classes, mode = classes, session.attention
    session.configure(attention='blindsight')
    try:
        total = 0.0
        for prompt, plain in zip(prompts, heard.logits, strict=True):
            now, was = _first_word(session, prompt).log_softmax(0), plain.log_softmax(0)
            total += float((was.exp() * (was - now)).sum())
            progress()
    finally:
        session._attending.classes = before
        session.configure(attention=mode)
    return total / len(prompts)


def characterize(bundle: str | os.PathLike, prompts: Sequence[Prompt], *,
                 most_drift: float = MOST_DRIFT, tolerance: float | None = None,
                 schedule: str = 'constant', about: dict | None = None,
                 progress: Progress | None = None,
                 **session) -> dict:
    """Find each head's class, write the classes into the bundle and return what was written.

    The bundle is as it was until the end, and after any exception.

    :param prompts: (question, two or more images) each.
    :param most_drift: mean KL divergence [nats] of the first word's distribution that is allowed.
    :param tolerance: relative L2 error of a head's output, instead of searching for it.
    :param schedule: how the tolerance runs over the layers: 'constant' or 'linear'.
    :param session: how to open the bundle, see Session.open (memory_budget_mb, device, ...).
    :raises RequestError: for no prompt, or one with fewer than two images.
    :raises BundleError, ReadError, MemoryBudgetError: see errors.py.
    :raises ValueError: for a schedule that doesn't exist.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is '{schedule}', want one of {', '.join(SCHEDULES)}")
    if not prompts or any(len(images) < 2 for _, images in prompts):
        raise RequestError('heads are characterised on prompts with two images or more')
    opened = Bundle.open(bundle)
    rounds = 1 + (1 if tolerance is not None else _STEPS + 1)
    done, total = 0, rounds * len(prompts)

    def one() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(min(done, total), total)

    with Session.open(bundle, drafts=False, **session) as running:
        heard = hear(running, prompts, one)

        def reached(at: float) -> float:
            return drift(running, prompts, heard, classes_of(heard, at, schedule), one)

        if tolerance is None:
            tolerance = search(reached, most_drift)
        classes = classes_of(heard, tolerance, schedule)
        found = drift(running, prompts, heard, classes, one)
    if progress is not None:
        progress(total, total)  # a search may end early
    kept = float(np.mean([heard.densities[kind] for layer in classes for kind in layer]))
    written = {'tool': f'neuron_chunk_ros {__version__}', 'prompts': len(prompts),
               'tolerance': float(f'{tolerance:.4g}'), 'schedule': schedule,
               'drift': float(f'{found:.4g}'), 'density': float(f'{kept:.4g}'), **(about or {})}
    store_attention(opened, classes, written)
    return {'heads': classes, 'about': written}


def search(reached: Callable[[float], float], most: float) -> float:
    """Return the largest tolerance found whose drift is at most that: between none and all."""
    if reached(_LOOSEST) <= most:
        return _LOOSEST
    low, high = 0.0, _LOOSEST   # nothing is within 0
    for _ in range(_STEPS - 1):
        middle = math.sqrt(max(low, 1e-3) * high)  # tolerances differ by factors
        low, high = (middle, high) if reached(middle) <= most else (low, middle)
    return low
