# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what `bench accuracy` found, drawn from its records."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from neuron_chunk_ros.bench import figures
from neuron_chunk_ros.bench.report import Record
from neuron_chunk_ros.bench.shapes import DECODERS

# What the curves show: (policy, order, budgets, layout, reader), and a colour of its own.
_SHOWN = (
    (('dense', 'original', 'TEAL', 'bundled', 'ours'), figures.BLACK),
    (('topk', 'original', 'TEAL', 'separate', 'paper'), figures.VERMILION),
    (('topk', 'original', 'TEAL', 'bundled', 'ours'), figures.PINK),
    (('greedy', 'hot-cold', 'TEAL', 'bundled', 'paper'), figures.ORANGE),
    (('greedy', 'hot-cold', 'TEAL', 'bundled', 'ours'), figures.ORANGE),
    (('optimal', 'hot-cold', 'TEAL', 'bundled', 'ours'), figures.SKY),
    (('optimal', 'hot-cold', 'time', 'bundled', 'ours'), figures.BLUE))
_READER = {'paper': "the paper's reader", 'ours': 'our reader'}


def _mine(points: list[Record], decoder: str, shown: tuple) -> list[Record]:
    keys = ('policy', 'order', 'budgets', 'layout', 'reader')
    return [p for p in points if p['decoder'] == decoder
            and tuple(p[key] for key in keys) == shown
            and (p['policy'] != 'optimal' or p['falls_back'])]


def _style(shown: tuple, colour: str) -> dict:
    policy, order, budgets, layout, reader = shown
    label = ', '.join([policy, *(['hot-cold'] if order == 'hot-cold' else []),
                       *([] if budgets == 'TEAL' else [f'{budgets} budgets']),
                       *([] if layout == 'bundled' else ['separate matrices'])])
    return {**figures.style(policy, reader), 'color': colour, 'label':
            f'{label}; {_READER[reader]}',
            'markerfacecolor': colour if reader == 'ours' else 'white'}


def curves(points: list[Record]) -> Figure:
    """Draw accuracy over the time of a frame's reads, a panel for each decoder."""
    decoders = list(dict.fromkeys(point['decoder'] for point in points))
    figure, axes = figures.panels(
        len(decoders), "Accuracy of the tabletop model against the time a frame's reads take\n"
        "(its rows as long as the decoder's; up and to the left is better)")
    for decoder, axis in zip(decoders, axes, strict=True):
        for shown, colour in _SHOWN:
            mine = _mine(points, decoder, shown)
            if shown[0] == 'dense':
                mine = mine[:1]
            score = np.array([p['accuracy'] for p in mine])
            spread = np.abs(np.array([[p['accuracy_low'], p['accuracy_high']]
                                      for p in mine]).T - score)
            axis.errorbar([p['median_ms'] for p in mine], score, yerr=spread, elinewidth=0.5,
                          **_style(shown, colour))
        axis.set_title(f'rows of {DECODERS[decoder].label}', fontsize=9)
        axis.set_xlabel('reading for a frame, five layers [ms]', fontsize=8)
        axis.set_ylabel('exact match', fontsize=8)
        axis.set_xlim(left=0)
    figures.legend_below(figure, axes[0], columns=2)
    return figure


def speedup(points: list[Record]) -> Figure:
    """Draw the speed-up at equal accuracy over the baseline's sparsity."""
    decoders = list(dict.fromkeys(point['decoder'] for point in points))
    figure, axes = figures.panels(
        len(decoders), "Times faster than top-k, separate matrices, the paper's reader, at equal "
        'accuracy\n(band: 95 % bootstrap interval)')
    for decoder, axis in zip(decoders, axes, strict=True):
        for shown, colour in _SHOWN:
            mine = _mine(points, decoder, shown)
            percent = [100 * p['sparsity'] for p in mine]
            axis.plot(percent, [p['speedup'] for p in mine], **_style(shown, colour))
            if shown[2] == 'time':
                axis.fill_between(percent, [p['speedup_low'] for p in mine],
                                  [p['speedup_high'] for p in mine], alpha=0.15, linewidth=0,
                                  color=colour)
        axis.set_title(f'rows of {DECODERS[decoder].label}', fontsize=9)
        axis.set_xlabel("the baseline's sparsity [%]", fontsize=8)
        axis.set_ylabel('times faster', fontsize=8)
        axis.set_ylim(bottom=0)
    figures.legend_below(figure, axes[0], columns=2)
    return figure


def ablation(records: list[Record]) -> Figure:
    """Draw mean and best speed-up of each step from the baseline to ours, and of ours without."""
    figure, (axis,) = figures.panels(
        1, 'Speed-up at equal accuracy over all sparsities and decoders', width=9.0,
        height=0.33 * len(records) + 0.8)
    places = np.arange(len(records))
    means = np.array([r['mean'] for r in records])
    spread = np.abs(np.array([[r['mean_low'], r['mean_high']] for r in records]).T - means)
    axis.barh(places, means, 0.7, xerr=spread, color=figures.BLUE,
              error_kw={'elinewidth': 1}, label='mean, with its 95 % interval')
    axis.plot([r['best'] for r in records], places, 'D', color=figures.ORANGE, markersize=5,
              label='best')
    for place, record in zip(places, records, strict=True):
        axis.annotate(f"{record['mean']:.2f}", (0.05, place), color='white', fontsize=7,
                      va='center')
    axis.axvline(1, color=figures.BLACK, linewidth=0.8, linestyle=':')
    axis.set_yticks(places, [r['contestant'] for r in records], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("times faster than top-k, separate matrices, the paper's reader", fontsize=8)
    axis.legend(fontsize=8, frameon=False, loc='lower right')
    return figure


def contiguity(records: list[Record]) -> Figure:
    """Draw which share of the rows read lies in runs of which length."""
    decoders = list(dict.fromkeys(record['decoder'] for record in records))
    level = records[0]['sparsity']
    figure, axes = figures.panels(
        len(decoders), f'Rows read at {level:.0%} by the length of the run they are read in')
    for decoder, axis in zip(decoders, axes, strict=True):
        for policy in ('topk', 'greedy', 'optimal'):
            for order in ('original', 'hot-cold'):
                mine = [r for r in records if (r['decoder'], r['policy'], r['order'],
                                               r['budgets']) == (decoder, policy, order, 'TEAL')
                        and (policy != 'optimal' or r['falls_back'])]
                axis.plot([r['shortest'] for r in mine],
                          np.cumsum([100 * r['share_of_rows'] for r in mine]),
                          color=figures.COLOURS[policy], marker=figures.MARKERS[policy],
                          linestyle='-' if order == 'hot-cold' else '--', markersize=4,
                          linewidth=1.4, label=f'{policy}, {order} order')
        axis.set_xscale('log', base=2)
        axis.set_xticks([r['shortest'] for r in mine],
                        [f"{r['shortest']}" for r in mine], fontsize=8)
        axis.set_title(f'rows of {DECODERS[decoder].label}', fontsize=9)
        axis.set_xlabel('run of less than twice so many rows', fontsize=8)
        axis.set_ylabel('share of the rows read [%]', fontsize=8)
        axis.set_ylim(0, 102)
    figures.legend_below(figure, axes[0], columns=3)
    return figure
