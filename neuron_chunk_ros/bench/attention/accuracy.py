# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Tabletop's questions about several views, its heads held to their classes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from neuron_chunk_ros.attention.segments import SegmentTable
from neuron_chunk_ros.attention.templates import DENSE, allowed
from neuron_chunk_ros.bench import tabletop_model
from neuron_chunk_ros.bench.statistics import RESAMPLES, Interval, interval
from neuron_chunk_ros.bench.tabletop_exam import TYPES, tabletop_exam
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.prepare.characterize import (
    AGREEING,
    MOST_DRIFT,
    Heard,
    classes_of,
    drift,
    hear,
    search,
)
from neuron_chunk_ros.tabletop import shipped
from neuron_chunk_ros.tabletop.evaluation import CAMERA
from neuron_chunk_ros.tabletop.exam import Exam, Sheet
from neuron_chunk_ros.tabletop.questions import MULTI_VIEW, sample
from neuron_chunk_ros.tabletop.scenes import render

_NAME = 'neuron_chunk_bench_attention'
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AccuracyOptions:
    """What is asked."""

    tolerances: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0)
    learnt_on: tuple[str, ...] = ('which', 'views')  # types of questions; 'moved' is held out
    prompts: int = 48           # to characterise on
    scenes: int = 400           # of each sort asked about
    seed: int = 1_000_003
    schedule: str = 'constant'


@dataclass(frozen=True)
class _Knobs:
    schedule: str
    prompts: int                # to characterise on
    agreeing: float = AGREEING
    most_drift: float = MOST_DRIFT


@dataclass(frozen=True)
class Kept:
    """What is left of the answers where attention is left out."""

    how: str                    # 'classes', 'fewer tokens', or the knob that was turned
    tolerance: float            # NaN for fewer tokens
    density: float              # of the attention of images' tokens
    drift: float                # nats; NaN for fewer tokens
    lost: dict[str, Interval]   # points, by type of question, and 'all'


class _Masks:
    """Has a model attend under masks, a different one for each layer and head."""

    def __init__(self, model):
        self._config, self._before = model.config.text_config, None
        self.of: Callable[[int], torch.Tensor] | None = None  # layer -> bool [1 or heads, P, P]

    def __enter__(self) -> _Masks:
        ALL_ATTENTION_FUNCTIONS.register(_NAME, self._attend)
        self._before = self._config._attn_implementation
        self._config._attn_implementation = _NAME
        return self

    def __exit__(self, *exc_info) -> None:
        self._config._attn_implementation = self._before

    def _attend(self, module, query, key, value, attention_mask, scaling=None, **kwargs):
        shared = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(shared, dim=1) for part in (key, value))
        scores = (query @ key.transpose(2, 3)).float() * scaling + attention_mask.float()
        mask = self.of(module.layer_idx)
        ahead = mask.shape[-1]
        scores[:, :, :ahead, :ahead] = scores[:, :, :ahead, :ahead].masked_fill(
            ~mask[None], torch.finfo(torch.float32).min)
        return (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2), None


def prefix_segments(session: Session, views: int) -> SegmentTable:
    """Return what the tokens ahead of a question about so many views are."""
    blank = [np.zeros((*reversed(CAMERA), 3), np.uint8)] * views
    return SegmentTable(session._inputs.whole('what?', blank, None).segments[:-1])


def measure(options: AccuracyOptions, progress: Progress) -> tuple[list[Kept], dict]:
    """Characterise the shipped model, and ask it as the tolerance rises; also return facts."""
    model = tabletop_model.load()
    exam = tabletop_exam(model, options.scenes, options.seed)
    several = [sheet for sheet in exam.sheets if len(sheet.features) > len(sheet.batch.ids)]
    rng = np.random.default_rng(options.seed + 1)
    prompts = []
    for number in range(options.prompts):
        scenes, question = sample(rng, options.learnt_on[number % len(options.learnt_on)])
        prompts.append((question.text, [render(scene, CAMERA) for scene in scenes]))
    found: list[Kept] = []
    with Session.open(shipped.bundle_dir(), drafts=False) as session:
        tables = {views: prefix_segments(session, views) for views in (2, 3, 4)}
        began = time.monotonic()
        heard = hear(session, prompts, _told('characterising', len(prompts), progress))
        hearing = time.monotonic() - began
        layers, heads = heard.errors.shape[1:3]
        with _Masks(model) as masks:
            def answered(label: str, of: Callable[[SegmentTable, int], torch.Tensor]):
                tell = _told(label, len(several), progress)
                return _right(exam, several, model, masks, tables, of, tell)

            plain = answered('dense', lambda table, layer: allowed(table, DENSE, 0)[None])

            def asked(how: str, tolerance: float, knobs: _Knobs) -> Kept:
                classes = classes_of(_first(heard, knobs.prompts), tolerance, knobs.schedule,
                                     knobs.agreeing)
                right = answered(f'{how}, tolerance {tolerance:.2f}', lambda table, layer:
                                 torch.stack([allowed(table, kind, 0)
                                              for kind in classes[layer]]))
                kept = _density(tables, [kind for layer in classes for kind in layer])
                return Kept(how, tolerance, kept,
                            drift(session, prompts, heard, classes, lambda: None),
                            _lost(exam, plain, right, options.seed))

            for tolerance in options.tolerances:
                found.append(asked('classes', tolerance, _Knobs(options.schedule, len(prompts))))
                share = _share_for(found[-1].density)
                right = answered(f'{share:.0%} of the tokens', lambda table, layer, share=share:
                                 _fewer(table, share)[None])
                found.append(Kept('fewer tokens', float('nan'), share ** 2, float('nan'),
                                  _lost(exam, plain, right, options.seed)))
            turned, searching = [], []
            for how, knobs in _turned(options):
                began = time.monotonic()
                tolerance = _searched(session, prompts, heard, knobs)
                searching.append(time.monotonic() - began)
                turned.append(asked(how, tolerance, knobs))
    accuracy = {kind: float(plain[exam.kinds == TYPES.index(kind)].mean()) for kind in MULTI_VIEW}
    return found, {'layers': layers, 'heads': heads, 'questions': int(_asked(exam).sum()),
                   'dense': accuracy, 'heard': heard, 'turned': turned, 'cost': {
                    'prompts': len(prompts), 'hearing_s': hearing,
                    'searching_s': searching[0]}}


def _turned(options: AccuracyOptions) -> list[tuple[str, _Knobs]]:
    """Return each knob in other positions, the others at their default."""
    plain = _Knobs(options.schedule, options.prompts)
    other = 'linear' if options.schedule == 'constant' else 'constant'
    return [('default', plain),
            (f'{other} schedule', replace(plain, schedule=other)),
            *((f'{share:.0%} of the prompts agree', replace(plain, agreeing=share))
              for share in (0.75, 1.0)),
            *((f'drift of {most:g}', replace(plain, most_drift=most))
              for most in (1e-4, 1e-2)),
            *((f'{number} prompts', replace(plain, prompts=number))
              for number in sorted({max(1, options.prompts // part) for part in (8, 3)}))]


def _searched(session: Session, prompts: Sequence, heard: Heard, knobs: _Knobs) -> float:
    """Return the tolerance that characterising with these knobs arrives at."""
    heard = _first(heard, knobs.prompts)
    return search(lambda at: drift(
        session, prompts[:knobs.prompts], heard,
        classes_of(heard, at, knobs.schedule, knobs.agreeing), lambda: None), knobs.most_drift)


def _first(heard: Heard, prompts: int) -> Heard:
    return Heard(heard.errors[:prompts], heard.densities, heard.logits[:prompts])


def _told(label: str, number: int, progress: Progress) -> Callable[[], None]:
    done = iter(range(1, number + 1))
    return lambda: progress(label, next(done), number)


def _asked(exam: Exam) -> np.ndarray:
    return np.isin(exam.kinds, [TYPES.index(kind) for kind in MULTI_VIEW])


def _right(exam: Exam, sheets: Sequence[Sheet], model, masks: _Masks,
           tables: dict[int, SegmentTable], of, tell: Callable[[], None]) -> np.ndarray:
    """Return which questions are answered right, those about several views."""
    cache: dict[tuple, torch.Tensor] = {}

    def enter(sheet: Sheet) -> None:
        views = len(sheet.features) // len(sheet.batch.ids)

        def mask(layer: int) -> torch.Tensor:
            if (views, layer) not in cache:
                cache[views, layer] = of(tables[views], layer)
            return cache[views, layer]
        masks.of = mask

    some = Exam(exam.types, sheets, exam.kinds, exam.prompts, exam._strata)
    return some.right(model, enter, tell)


def _density(tables: dict[int, SegmentTable], kinds: Sequence[int]) -> float:
    """Return the share of attention among the tokens of images and ahead that is kept."""
    kept = []
    for table in tables.values():
        dense = float(allowed(table, DENSE, 0).sum())
        each = {kind: float(allowed(table, kind, 0).sum()) / dense for kind in set(kinds)}
        kept.append(np.mean([each[kind] for kind in kinds]))
    return float(np.mean(kept))


def _share_for(density: float) -> float:
    """Return which share of the visual tokens costs as much: pairs go with its square."""
    return density ** 0.5


def _fewer(table: SegmentTable, share: float) -> torch.Tensor:
    """Return the mask under which only some visual tokens of each image, evenly, are seen."""
    mask = allowed(table, DENSE, 0)
    for start, segment in table:
        if segment.image:
            visual = [at for at in range(segment.tokens) if at not in segment.text]
            kept = {visual[int(k / share)] for k in range(int(len(visual) * share))
                    if int(k / share) < len(visual)}
            gone = [start + at for at in visual if at not in kept]
            own = mask[gone, gone].clone()
            mask[:, gone] = False
            mask[gone, gone] = own  # somebody has to be seen
    return mask


def _lost(exam: Exam, plain: np.ndarray, right: np.ndarray, seed: int) -> dict[str, Interval]:
    """Return the points lost by type, resampled by prompt."""
    asked, found = _asked(exam), {}
    for kind in (*MULTI_VIEW, 'all'):
        mine = asked if kind == 'all' else exam.kinds == TYPES.index(kind)
        lost = 100.0 * (plain[mine].astype(float) - right[mine])
        prompts = np.unique(exam.prompts[mine], return_inverse=True)[1]
        sums, counts = np.bincount(prompts, lost), np.bincount(prompts)
        draws = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
        found[kind] = interval(lost.mean(), sums[draws].sum(1) / counts[draws].sum(1))
    return found
