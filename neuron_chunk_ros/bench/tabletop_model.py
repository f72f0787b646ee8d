# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The shipped model as benchmarks need it: in memory, calibrated, its importance recorded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuron_chunk_ros.chunking.budgets import Budgets
from neuron_chunk_ros.chunking.hot_cold import hot_cold_order
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.calibration import tensor_name
from neuron_chunk_ros.storage.layout import Group
from neuron_chunk_ros.tabletop import shipped
from neuron_chunk_ros.tabletop.evaluation import CAMERA
from neuron_chunk_ros.tabletop.questions import SINGLE_VIEW, sample
from neuron_chunk_ros.tabletop.scenes import render

KIND = 'visual'  # whose rows are skipped: see docs/BENCHMARKS.md


def load():
    """Return the shipped transformers model, in its own dtype, for evaluation.

    :raises ModelError: where the installation lacks it.
    """
    import transformers
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        shipped.model_dir(), attn_implementation='eager', local_files_only=True)
    return model.eval()


def kind_of(group: str) -> str:
    """Return 'qkv' of 'layers.3.qkv'."""
    return group.rpartition('.')[2]


def samples(count: int, seed: int, progress: Callable[[], None] = lambda: None
            ) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield questions about one fresh scene each, types in turn: (question, images)."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        scenes, question = sample(rng, SINGLE_VIEW[number % len(SINGLE_VIEW)])
        progress()
        yield question.text, [render(scene, CAMERA) for scene in scenes]


def recorded(frames: int, seed: int, progress: Callable[[], None] = lambda: None
             ) -> dict[str, np.ndarray]:
    """Return importance by kind of group, nothing skipped: float32 [frames, layers, rows]."""
    from neuron_chunk_ros.prepare.calibrate import record_importance
    asked = samples(frames, seed, progress)
    by_kind: dict[str, list[np.ndarray]] = {}
    for name, found in record_importance(shipped.bundle_dir(), asked).items():
        by_kind.setdefault(kind_of(name), []).append(found[KIND])
    return {kind: np.stack(layers, axis=1) for kind, layers in by_kind.items()}


@dataclass(frozen=True)
class Calibrated:
    """What calibrating found out."""

    groups: list[Group]             # in decoder order
    budgets: Budgets
    orders: list[np.ndarray]        # hot-cold, int32 [rows] of each group
    importance: list[np.ndarray]    # float32 [samples, rows] of each group
    worth: list[float]              # what a share of each group's importance is worth


def calibrated(count: int, seed: int, progress: Callable[[int, int], None]) -> Calibrated:
    """Calibrate a bundle of its own, which is gone afterwards, on scenes of this seed.

    :param progress: called with (done, in all), in no unit.
    """
    from neuron_chunk_ros.prepare.calibrate import calibrate, record_importance
    from neuron_chunk_ros.prepare.convert import convert
    with tempfile.TemporaryDirectory(prefix='neuron-chunk-bench-') as folder:
        path = convert(shipped.model_dir(), Path(folder) / 'bundle').path
        calibrate(path, samples(count, seed), progress=progress)
        bundle = Bundle.open(path)
        arrays = bundle.neurons()
        importance = record_importance(path, samples(count, seed))
    orders = [hot_cold_order(arrays[tensor_name(name, KIND, 'count')],
                             arrays[tensor_name(name, KIND, 'importance')])
              for name in bundle.groups]
    budgets = Budgets.from_calibration(bundle.calibration)
    return Calibrated(
        list(bundle.groups.values()), budgets, orders,
        [importance[name][KIND] for name in bundle.groups],
        [budgets.worth(name, KIND) for name in bundle.groups])
