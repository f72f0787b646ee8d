# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Calibrating a bundle on sample questions: budgets (TEAL) and how often each neuron is needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import numpy as np

from neuron_chunk_ros import __version__
from neuron_chunk_ros.chunking import hot_cold, teal
from neuron_chunk_ros.prepare.convert import CountProgress
from neuron_chunk_ros.prepare.layer_trials import Layer
from neuron_chunk_ros.prepare.layer_walk import Sample, Walk
from neuron_chunk_ros.storage.annotate import store_calibration
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.calibration import KINDS, tensor_name

_SENSITIVITY_AT = 0.5
_PARTS = 100  # of progress, for each layer and kind


def calibrate(bundle: str | os.PathLike, samples: Iterable[Sample], *, device: str = 'cpu',
              about: dict | None = None, progress: CountProgress | None = None) -> dict:
    """Calibrate a bundle on samples, write the result into it and return it.

    For each decoder layer, and for visual and text tokens apart: TEAL's table of each group's
    sparsity by the layer's parameter-weighted sparsity, with one choice of rows for a sample's
    tokens of the kind and everything else dense; each group's sensitivity (relative L2 error of
    the layer's output when it alone skips half of its rows) and its importance's coefficient of
    variation; and for each row how many samples had it in their most important half, and its
    mean importance. See storage/calibration.py for how it is stored. The bundle is as it was
    until the end, and after any exception.

    :param samples: (prompt, images uint8 [height, width, 3] RGB) each; asked for one by one.
    :param about: what to record beside, for readers.
    :raises RequestError: for no sample at all, or one that can't be used.
    :raises BundleError, ReadError: see errors.py.
    """
    opened = Bundle.open(bundle)
    groups: dict[str, dict] = {}
    arrays: dict[str, np.ndarray] = {}
    with Walk(opened, device) as walk:
        total = walk.layers * len(KINDS) * _PARTS
        for index, layer in enumerate(walk.run(samples)):
            tables = {}
            for number, kind in enumerate(KINDS):
                done = (index * len(KINDS) + number) * _PARTS

                def report(share: float, done: int = done) -> None:
                    if progress is not None:
                        progress(done + round(share * _PARTS), total)

                report(0)
                tables[kind] = _budgets(layer, kind, report)
            for group in layer.groups:
                groups[group.name] = {}
                for kind in KINDS:
                    importance = layer.importance[group.name][kind]
                    groups[group.name][kind] = {**tables[kind][group.name],
                                                'variation': _variation(importance)}
                    for array, values in _per_neuron(importance).items():
                        arrays[tensor_name(group.name, kind, array)] = values
            used = {'samples': len(importance),
                    'budget_samples': sum(len(b.samples) for b in layer.batches if b.trial)}
        if progress is not None:
            progress(total, total)
    calibration = {
        'samples': used['samples'], 'levels': list(teal.LEVELS), 'groups': groups,
        'about': {'tool': f'neuron_chunk_ros {__version__}',
                  'budget_samples': used['budget_samples'], **(about or {})}}
    return store_calibration(opened, calibration, arrays)


def record_importance(bundle: str | os.PathLike, samples: Iterable[Sample], *,
                      device: str = 'cpu') -> dict[str, dict[str, np.ndarray]]:
    """Return every group's importance on samples, with nothing skipped.

    :return: group name -> 'visual', 'text' -> float32 [samples, rows], in the order of the rows
        on flash.
    :raises RequestError, BundleError, ReadError: as `calibrate` does.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    with Walk(Bundle.open(bundle), device) as walk:
        for layer in walk.run(samples):
            found.update(layer.importance)
    return found


def _budgets(layer: Layer, kind: str, report: Callable[[float], None]) -> dict[str, dict]:
    """Return group -> {sparsity: TEAL's table, sensitivity} of one layer and kind of token."""
    layer.start(kind)
    norm = layer.norm()
    alone = {group.name: layer.error({group.name: _SENSITIVITY_AT}) for group in layer.groups}

    def raised(sparsity: teal.Sparsities, reached: float) -> None:
        layer.settle(sparsity)
        report(reached)

    table = teal.allocate({group.name: group.rows * group.columns for group in layer.groups},
                          layer.error, raised=raised)
    return {name: {'sparsity': [round(value, 6) for value in values],
                   'sensitivity': rounded((alone[name] / norm) ** 0.5 if norm else 0.0)}
            for name, values in table.items()}


def _variation(importance: np.ndarray) -> float:
    """Return std / mean over the rows, mean over the samples [samples, rows]."""
    mean = importance.mean(axis=1)
    ratio = np.divide(importance.std(axis=1), mean, out=np.zeros_like(mean), where=mean > 0)
    return rounded(float(ratio.mean()))


def _per_neuron(importance: np.ndarray) -> dict[str, np.ndarray]:
    marks = [hot_cold.marks(sample) for sample in importance]
    return {'count': np.sum(marks, axis=0, dtype=np.int32),
            'importance': importance.mean(axis=0, dtype=np.float64).astype(np.float32)}


def rounded(value: float) -> float:
    """Return the value to six digits: the rest is noise and would fill bundle.json."""
    return float(f'{value:.6g}')
