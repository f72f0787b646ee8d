# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what `bench read` found, drawn from its records."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from neuron_chunk_ros.bench import figures, paper
from neuron_chunk_ros.bench.report import Record
from neuron_chunk_ros.bench.shapes import DECODERS


def speedup(steps: list[Record]) -> Figure:
    """Draw time against the baseline over sparsity, a panel for each decoder."""
    decoders = list(dict.fromkeys(step['decoder'] for step in steps))
    figure, axes = figures.panels(
        len(decoders), "One layer's reads against top-k through the paper's reader, equal "
        'importance kept\n(lines: mean over sources of importance; band: from least to most)')
    for decoder, axis in zip(decoders, axes, strict=True):
        for policy, reader, label in figures.contender_labels():
            mine = [s for s in steps if (s['decoder'], s['layout'], s['policy'], s['reader'])
                    == (decoder, 'bundled', policy, reader)]
            levels = sorted({s['sparsity'] for s in mine})
            values = [[s['speedup'] for s in mine if s['sparsity'] == at] for at in levels]
            percent = [100 * at for at in levels]
            axis.plot(percent, [np.mean(v) for v in values], label=label,
                      **figures.style(policy, reader))
            if (policy, reader) == ('optimal', 'ours'):
                axis.fill_between(percent, [min(v) for v in values], [max(v) for v in values],
                                  color=figures.COLOURS[policy], alpha=0.15, linewidth=0)
        axis.set_title(DECODERS[decoder].label, fontsize=9)
        axis.set_xlabel('rows skipped by top-k [%]', fontsize=8)
        axis.set_ylabel('times faster', fontsize=8)
        axis.set_ylim(bottom=0)
    figures.legend_below(figure, axes[0])
    return figure


def estimates(estimated: np.ndarray, corrected: np.ndarray, measured: np.ndarray) -> Figure:
    """Draw estimated against measured times [s] of single steps, and how far they were off."""
    figure, (points, errors) = figures.panels(
        2, 'Estimated against measured, single steps of our reader')
    low, high = 0.8e3 * min(estimated.min(), measured.min()), 1.25e3 * max(
        estimated.max(), measured.max())
    points.plot([low, high], [low, high], color=figures.BLACK, linewidth=0.8, label='equal')
    points.scatter(1e3 * estimated, 1e3 * measured, s=3, alpha=0.3, linewidths=0,
                   color=figures.BLUE, rasterized=True, label='a step')
    points.set(xscale='log', yscale='log', xlim=(low, high), ylim=(low, high))
    for axis in (points.xaxis, points.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter('{x:g}'))
        axis.set_minor_formatter(NullFormatter())
    points.set_xlabel('estimated by the storage profile [ms]', fontsize=8)
    points.set_ylabel('measured [ms]', fontsize=8)
    points.legend(fontsize=8, frameon=False)
    for values, label, colour in ((estimated, 'as estimated', figures.VERMILION),
                                  (corrected, 'corrected by the steps before', figures.BLUE)):
        off = np.sort(100 * np.abs(values / measured - 1))
        errors.plot(off, 100 * (np.arange(len(off)) + 0.5) / len(off), color=colour, label=label)
    errors.axvline(10, color=figures.BLACK, linewidth=0.8, linestyle=':')
    errors.set(xlim=(0, 60), ylim=(0, 100))
    errors.set_xlabel('error of at most [%]', fontsize=8)
    errors.set_ylabel('share of the steps [%]', fontsize=8)
    errors.legend(fontsize=8, frameon=False, loc='lower right')
    return figure


def simulated(speedups: list[Record], what: str) -> Figure:
    """Draw mean and best beside the paper's, a panel for each simulated device."""
    devices = list(dict.fromkeys(record['device'] for record in speedups))
    figure, axes = figures.panels(
        len(devices), f"SIMULATED latency tables of the paper's two Jetsons: {what}",
        height=3.2)
    for device, axis in zip(devices, axes, strict=True):
        mine = [r for r in speedups if r['device'] == device]
        names = ["the paper's", *(r['label'] for r in mine)]
        means = [paper.SPEEDUPS[device]['mean'], *(r['mean'] for r in mine)]
        bests = [paper.SPEEDUPS[device]['best'], *(r['best'] for r in mine)]
        places = np.arange(len(names))
        for offset, values, colour, label in ((0.2, bests, figures.SKY, 'best'),
                                              (-0.2, means, figures.BLUE, 'mean')):
            bars = axis.barh(places + offset, values, 0.38, color=colour, label=label)
            axis.bar_label(bars, fmt='%.2f', fontsize=7, padding=2)
        axis.set_yticks(places, names, fontsize=8)
        axis.invert_yaxis()
        axis.set_title(paper.LABELS[device], fontsize=9)
        axis.set_xlabel('times faster than top-k', fontsize=8)
        axis.margins(x=0.15)
    figures.legend_below(figure, axes[0])
    return figure
