# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `bench planes` found, as tables and a picture."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from neuron_chunk_ros.bench import figures
from neuron_chunk_ros.bench.planes.measure import Point
from neuron_chunk_ros.bench.report import Column, Record, Report, Table

# (exam, who chooses, how, share): lost at most, points or % of perplexity
_BOTH = 'frames and words'
GOALS = {('easy-vqa', _BOTH, 'base of 4 bits held', 0.1): 1.0,
         ('easy-vqa', _BOTH, 'base of 3 bits held', 0.3): 1.0,
         ('tabletop', _BOTH, 'base of 4 bits held', 0.1): 0.5,
         ('tabletop', _BOTH, 'base of 3 bits held', 0.3): 0.5,
         ('prose', '64 words alike', 'base of 4 bits held', 0.3): 3.0,
         ('prose', 'each word by itself', 'base of 4 bits held', 0.3): 2.0,
         ('prose', '64 words alike', 'base of 4 bits held', 1.0): 1.0,
         ('prose', '64 words alike', 'base of 4 bits held', 0.0): 7.0}
_STYLES = {'base of 4 bits held': (figures.BLUE, 'D'), 'base of 3 bits held': (figures.SKY, 'o'),
           'base of 2 bits held': (figures.GREEN, 'v'), 'hot rows held': (figures.ORANGE, '^'),
           'left out': (figures.VERMILION, 's')}
MIB = 1 << 20


def report(points: Sequence[Point], facts: Record) -> Report:
    """Lay out what was measured; intervals are of 95 %, over pictures or windows."""
    records = [{'exam': one.exam, 'chosen_for': one.mode, 'how': one.how, 'share': one.share,
                'held_mib': one.memory / MIB, 'read_mib': one.nbytes / MIB, 'value': one.value,
                'error': one.error.value, 'error_low': one.error.low, 'error_high': one.error.high,
                'unit': one.unit} for one in points]
    summary = []
    for one in records:
        most = GOALS.get((one['exam'], one['chosen_for'], one['how'], one['share']))
        if most is not None:
            summary.append({'what': f'{one["exam"]}, {one["chosen_for"]}: {one["how"]}, '
                                    f'{one["share"]:.0%} refined', 'unit': one['unit'],
                            'wanted': most, 'reached': one['error'],
                            'holds': one['error'] <= most})
    lines = [f'{one["what"]}: {one["reached"]:.2f} {one["unit"]}, wanted at most {one["wanted"]}: '
             f'{"holds" if one["holds"] else "FALLS SHORT"}.' for one in summary]
    tables = [Table(
        f'{exam}: what is lost ({unit})',
        [Column('rows chosen for', 'chosen_for'), Column('the others', 'how'),
         Column('share chosen', 'share', '{:.0%}'), Column('held [MiB]', 'held_mib', '{:.1f}'),
         Column('read for a step [MiB]', 'read_mib', '{:.1f}'),
         Column('right, or perplexity', 'value', '{:.3f}'),
         Column(unit, 'error', '{:.2f}'), Column('from', 'error_low', '{:.2f}'),
         Column('to', 'error_high', '{:.2f}')],
        [one for one in records if one['exam'] == exam])
        for exam, unit in dict.fromkeys((one.exam, one.unit) for one in points)]
    made = Report('planes', facts, {'points': records}, summary, tables, lines=lines)
    made.add_figure('curves', lambda: curves(records),
                    'What is lost against what a step reads. Hot rows take as much memory as '
                    'bases of 4 bits; rows left out take none.')
    return made


def curves(records: Sequence[Record]) -> Figure:
    """Draw error over bytes, a panel for each exam and who chooses."""
    shown = list(dict.fromkeys((one['exam'], one['chosen_for']) for one in records))
    figure, axes = figures.panels(len(shown), 'Error against bytes read for a step')
    for (exam, mode), axis in zip(shown, axes, strict=True):
        mine = [one for one in records if (one['exam'], one['chosen_for']) == (exam, mode)]
        for how, (colour, marker) in _STYLES.items():
            points = sorted((one for one in mine if one['how'] == how),
                            key=lambda one: one['read_mib'])
            error = [one['error'] for one in points]
            spread = [[one['error'] - one['error_low'] for one in points],
                      [one['error_high'] - one['error'] for one in points]]
            axis.errorbar([one['read_mib'] for one in points], error, yerr=spread, color=colour,
                          marker=marker, markersize=4, linewidth=1.4, elinewidth=0.6, label=how)
        axis.axhline(0, color=figures.BLACK, linewidth=0.8, linestyle=':')
        axis.set_yscale('symlog', linthresh=1)
        axis.set_title(f'{exam}, chosen for {mode}', fontsize=9)
        axis.set_xlabel('read for a step [MiB]', fontsize=8)
        axis.set_ylabel(mine[0]['unit'], fontsize=8)
    figures.legend_below(figure, axes[0], columns=3)
    return figure
