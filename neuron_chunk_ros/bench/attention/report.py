# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `bench attention` found, as tables and a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from neuron_chunk_ros.bench import figures
from neuron_chunk_ros.bench.attention.accuracy import Kept
from neuron_chunk_ros.bench.attention.speed import Timed
from neuron_chunk_ros.bench.report import Column, Record, Report, Table
from neuron_chunk_ros.bench.statistics import ratio_interval, resampled
from neuron_chunk_ros.prepare.characterize import MOST_DRIFT
from neuron_chunk_ros.tabletop.questions import MULTI_VIEW

# (what, images, tokens of an image): times faster than causal SDPA at least
FASTER = {('prompt', 8, 196): 3.0, ('prompt', 16, 256): 5.5, ('append', 16, 196): 1 / 0.3}
LOST, LOST_BY_TYPE = 0.5, 1.5  # points, at most


def _rows(kept: Sequence[Kept]) -> list[Record]:
    return [{'how': one.how, 'tolerance': one.tolerance, 'density': one.density,
             'drift': one.drift, **{
                 f'{kind}{end}': getattr(one.lost[kind], name) for kind in one.lost
                 for end, name in (('', 'value'), ('_low', 'low'), ('_high', 'high'))}}
            for one in kept]


def report(kept: Sequence[Kept], timed: Sequence[Timed], facts: Record, seed: int) -> Report:
    """Lay out what was measured; intervals are of 95 %."""
    turned = _rows(facts.pop('turned', []))
    points = _rows(kept)
    speeds = []
    for one in timed:
        draws = resampled(len(one.dense), np.random.default_rng(seed))
        faster = ratio_interval(one.dense, one.ours, draws)
        speeds.append({'what': one.what, 'images': one.images, 'tokens': one.tokens,
                       'heads': one.heads, 'density': one.density, 'repeats': len(one.dense),
                       'dense_ms': 1e3 * float(np.median(one.dense)),
                       'ours_ms': 1e3 * float(np.median(one.ours)), 'faster': faster.value,
                       'faster_low': faster.low, 'faster_high': faster.high})
    summary = [{'what': f'{one["what"]} of {one["images"]} x {one["tokens"]}, Intra-Image+Sink: '
                        'times faster', 'wanted': wanted, 'reached': one['faster'],
                'holds': one['faster'] >= wanted}
               for one in speeds if one['heads'] == 'Intra-Image+Sink'
               and (wanted := FASTER.get((one['what'], one['images'], one['tokens'])))]
    chosen = [one for one in kept if one.how == 'classes' and one.drift <= MOST_DRIFT]
    if chosen:
        most = max(chosen, key=lambda one: one.tolerance)
        for kind, wanted in (('all', LOST), *((kind, LOST_BY_TYPE) for kind in MULTI_VIEW)):
            summary.append({'what': f'{kind}: points lost at a drift of {most.drift:.3g} nats',
                            'wanted': wanted, 'reached': most.lost[kind].value,
                            'holds': most.lost[kind].value <= wanted})
    lines = [f'{one["what"]}: {one["reached"]:.2f}, wanted {one["wanted"]:.3g}: '
             f'{"holds" if one["holds"] else "FALLS SHORT"}.' for one in summary]
    cost = facts.get('cost')
    if cost:
        lines.append(f'Characterising on {cost["prompts"]} prompts took '
                     f'{cost["hearing_s"]:.1f} s, the search {cost["searching_s"]:.1f} s.')
    columns = [Column('tolerance', 'tolerance', '{:.2f}'),
               Column('density kept', 'density', '{:.2f}'), Column('drift', 'drift', '{:.4f}'),
               *(Column(kind, kind, '{:.2f}') for kind in (*MULTI_VIEW, 'all')),
               Column('from', 'all_low', '{:.2f}'), Column('to', 'all_high', '{:.2f}')]
    tables = [
        Table("Tabletop's questions about several views: points lost",
              [Column('left out by', 'how'), *columns], points),
        Table('One knob turned, the others at their default: points lost',
              [Column('knob', 'how'), *columns], turned),
        Table('Attention alone against causal SDPA, and whole passes of a decoder, in turns',
              [Column('', 'what'), Column('images', 'images'), Column('tokens of one', 'tokens'),
               Column('classes', 'heads'), Column('density', 'density', '{:.2f}'),
               Column('dense [ms]', 'dense_ms', '{:.1f}'),
               Column('ours [ms]', 'ours_ms', '{:.1f}'),
               Column('times faster', 'faster', '{:.2f}'), Column('from', 'faster_low', '{:.2f}'),
               Column('to', 'faster_high', '{:.2f}'), Column('repeats', 'repeats')], speeds)]
    made = Report('attention', facts, {'points': points, 'turned': turned, 'speeds': speeds},
                  summary, tables, lines=lines)
    made.add_figure('curve', lambda: curve(points), 'Points lost on questions about several '
                    'views, against the share of attention kept.')
    return made


def curve(points: Sequence[Record]) -> Figure:
    """Draw points lost over density, a panel for each type of question."""
    kinds = (*MULTI_VIEW, 'all')
    figure, axes = figures.panels(len(kinds), 'Points lost against the share of attention kept')
    for kind, axis in zip(kinds, axes, strict=True):
        for how, colour in (('classes', figures.BLUE), ('fewer tokens', figures.VERMILION)):
            mine = sorted((one for one in points if one['how'] == how),
                          key=lambda one: one['density'])
            lost = np.array([one[kind] for one in mine])
            spread = np.abs(np.array([[one[f'{kind}_low'], one[f'{kind}_high']]
                                      for one in mine]).T - lost)
            axis.errorbar([one['density'] for one in mine], lost, yerr=spread, color=colour,
                          marker='o', markersize=4, linewidth=1.4, elinewidth=0.6, label=how)
        axis.axhline(0, color=figures.BLACK, linewidth=0.8, linestyle=':')
        axis.set_title(kind, fontsize=9)
        axis.set_xlabel('share of attention kept', fontsize=8)
        axis.set_ylabel('points lost', fontsize=8)
    figures.legend_below(figure, axes[0])
    return figure
