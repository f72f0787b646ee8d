# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Draws what compressing did: errors layer by layer, bytes, answers before and after."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuron_chunk_ros.compress.exam import Answers
from neuron_chunk_ros.compress.report import IntegerReport, Report
from neuron_chunk_ros.figure_file import save_figure

# Okabe and Ito's palette: colour-blind people can tell these.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#E69F00', '#CC79A7', '#56B4E9', '#000000')
_GREY = '#bbbbbb'


def draw(report: Report | IntegerReport, path: Path) -> None:
    """Draw a report.

    :raises OSError: where it can't be written. ValueError: for a file type that isn't a picture's.
    """
    errors, sizes = _of_integers(report) if isinstance(report, IntegerReport) else \
        _of_groups(report)
    figure = Figure(figsize=(11, 7.6 if report.answers else 3.9), layout='constrained')
    figure.suptitle(f'recipe {report.recipe}', fontsize=11)
    grid = figure.add_gridspec(2 if report.answers else 1, 2, width_ratios=(2, 1))
    _draw_errors(figure.add_subplot(grid[0, 0]), errors)
    _draw_sizes(figure.add_subplot(grid[0, 1]), sizes)
    if report.answers:
        _draw_answers(figure.add_subplot(grid[1, :]), report.answers)
    save_figure(figure, path, dpi=130)


def _of_groups(report: Report) -> tuple[dict, dict]:
    kinds = report.kinds()
    return ({kind: [(_layer(group.name), group.error) for group in groups]
             for kind, groups in kinds.items()},
            {kind: (sum(g.nbytes_before for g in groups), sum(g.nbytes for g in groups))
             for kind, groups in kinds.items()})


def _of_integers(report: IntegerReport) -> tuple[dict, dict]:
    errors: dict[str, list] = {}
    for name, error in report.errors.items():
        errors.setdefault(name.rpartition('.')[2], []).append((_layer(name), error))
    return errors, {'all products': (report.nbytes_before, report.nbytes)}


def _layer(name: str) -> int | None:
    found = re.search(r'\.(\d+)\.', name)
    return int(found[1]) if found else None


def _draw_errors(axes: Axes, errors: dict[str, list[tuple[int | None, float]]]) -> None:
    last = max((layer for points in errors.values() for layer, _ in points
                if layer is not None), default=-1)
    for number, (kind, points) in enumerate(errors.items()):
        style = {'color': _COLOURS[number % len(_COLOURS)], 'label': kind, 'markersize': 4,
                 'marker': 'osD^v'[number // len(_COLOURS) % 5]}
        layers = [last + 1 if layer is None else layer for layer, _ in points]
        # Towers and decoders have layers of the same number: points, then, and no line.
        line = '-' if len(set(layers)) == len(layers) else ''
        axes.plot(layers, [error for _, error in points], linestyle=line, linewidth=1.2, **style)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f'layer ({last + 1}: outside of layers)')
    axes.set_ylabel('error of the outputs, relative')
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False, ncols=2)
    _plain(axes)


def _draw_sizes(axes: Axes, sizes: dict[str, tuple[int, int]]) -> None:
    kinds = list(sizes)[::-1]
    before, after = np.array([sizes[kind] for kind in kinds], float).T / 1e6
    axes.barh(kinds, before, color=_GREY, label='before')
    axes.barh(kinds, after, height=0.5, color=_COLOURS[0], label='after')
    axes.set_xlabel(f'MB ({before.sum():.1f} before, {after.sum():.1f} after)')
    axes.legend(fontsize=8, frameon=False)
    _plain(axes)


def _draw_answers(axes: Axes, answers: Answers) -> None:
    kinds = list(answers.asked)
    at = np.arange(len(kinds))
    for offset, (right, colour, label) in ((-0.2, (answers.before, _GREY, 'before')),
                                           (0.2, (answers.after, _COLOURS[0], 'after'))):
        shares = [answers.shares(right)[kind] for kind in kinds]
        bars = axes.bar(at + offset, shares, 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt='%.2f', fontsize=7)
    axes.set_xticks(at, [f'{kind}\n({answers.asked[kind]})' for kind in kinds])
    axes.set_ylim(0, 1.15)
    axes.set_ylabel('answers right (of how many asked)')
    axes.legend(fontsize=8, frameon=False, loc='upper right', ncols=2)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.grid(True, color='#dddddd', linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(labelsize=8)
