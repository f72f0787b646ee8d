# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `bench read` found, against what was to be reached, and laid out as tables."""

from __future__ import annotations

import numpy as np

from neuron_chunk_ros.bench import goals, paper
from neuron_chunk_ros.bench.contestants import CONTENDERS, DENSE, GREEDY, OURS, Contender
from neuron_chunk_ros.bench.read import figures as read_figures
from neuron_chunk_ros.bench.read import records as read_records
from neuron_chunk_ros.bench.read.comparison import ALIKE, PAPERS, Comparison, pairs
from neuron_chunk_ros.bench.read.measure import Measured, ReadOptions
from neuron_chunk_ros.bench.read.steps import ReadStep
from neuron_chunk_ros.bench.report import Column, Record, Report, Table
from neuron_chunk_ros.bench.statistics import interval, running_correction

_MS = '{:.2f}'
_TIMES = '{:.2f}x'


def report(options: ReadOptions, measured: Measured, simulated: dict[str, list[ReadStep]],
           facts: Record) -> Report:
    """Compare everything with everything that was asked for."""
    timed = measured.steps
    comparison = Comparison(timed, options.repeats, options.seed)
    steps = read_records.simulated_steps(simulated)
    records = {
        'steps': [read_records.step(comparison, key, one) for key, one in comparison.all()],
        'speedups': read_records.speedups(comparison, options.decoders),
        'layouts': read_records.layouts(comparison),
        'pages': read_records.pages(measured),
        'estimates': read_records.estimates(timed),
        'simulated': steps,
        'simulated_speedups': read_records.simulated_speedups(steps),
    }
    summary = _goals(comparison, records)
    parts = [read_records.single_steps(steps) for steps in timed.values()]
    made = Report('read', facts, records, summary, _tables(records, summary, options))
    made.add_figure('speedup', lambda: read_figures.speedup(records['steps']),
                    "Reading a layer: times faster than top-k through the paper's reader.")
    made.add_figure('estimates', lambda: read_figures.estimates(
        *(np.concatenate(column) for column in zip(
            *((estimated, running_correction(estimated, measured), measured)
              for estimated, measured in parts), strict=True))),
        'Left: every single step; right: how many of them were estimated how well.')
    made.add_figure('simulated', lambda: read_figures.simulated(
        _labelled(records['simulated_speedups']), 'at equal importance kept'),
        "Simulated, not measured: the same selections under the paper's devices' latency tables.")
    return made


def _labelled(speedups: list[Record]) -> list[Record]:
    """Pick what the picture shows: bundled storage, baselines told apart."""
    names = {ALIKE: '', PAPERS: ", the paper's storage"}
    return [{**r, 'label': f"{r['policy']}{names[r['against']]}"} for r in speedups
            if r['layout'] == 'bundled']


def _goals(comparison: Comparison, records: dict) -> list[Record]:
    found = []
    for base, what in ((ALIKE, 'ours against top-k from the same storage'),
                       (PAPERS, "ours against top-k from the paper's storage")):
        compared = pairs(comparison, base, OURS)
        if compared:
            mean, best, _ = comparison.mean(compared)
            found += [goals.goal(f'{what}: mean', mean, at_least=4, unit='x'),
                      goals.goal(f'{what}: best', best, at_least=8, unit='x')]
    ours = [key for _, key in pairs(comparison, ALIKE, OURS)]
    both = [((*key[:4], GREEDY), key) for key in ours if key[3] > 0]
    if both:
        found.append(goals.goal('optimal against greedy, our reader: mean',
                                comparison.mean(both)[0], at_least=1.15, unit='x'))
    half = [((*key[:4], DENSE), key) for key in ours if abs(key[3] - 0.5) < 1e-9]
    if half:
        ratios = [interval(*comparison.ratio(*pair)) for pair in half]
        found.append(goals.goal('ours against reading everything at 50 %: least',
                                min(ratios, key=lambda r: r.value), at_least=1, unit='x'))
    every = records['estimates'][0]
    found += [goals.goal('estimated against measured: R^2', every['r_squared'], at_least=0.95),
              goals.goal('median error of an estimate, as the profile has it [%]',
                         100 * every['median_error']),
              goals.goal('median error of an estimate, corrected [%]',
                         100 * every['corrected_error'], at_most=10)]
    for record in records['simulated_speedups']:
        if (record['policy'], record['layout']) == ('optimal', 'bundled'):
            label = (f"simulated {paper.LABELS[record['device']]}, ours against top-k from "
                     f"{'the ' if record['against'] == ALIKE else ''}{record['against']}")
            found += [goals.goal(f'{label}: mean', record['mean'],
                                 at_least=record['paper_mean'], unit='x'),
                      goals.goal(f'{label}: best', record['best'],
                                 at_least=record['paper_best'], unit='x')]
    return found


def _tables(records: dict, summary: list[Record], options: ReadOptions) -> list[Table]:
    speedup = (Column('policy', 'policy'), Column('reader', 'reader'))
    tables = [Table(
        "Time against top-k through the paper's reader, at equal importance kept: mean over "
        'decoders, sources and sparsities',
        (Column('baseline from', 'against'), Column('decoder', 'decoder'), *speedup,
         Column('mean', 'mean', _TIMES), Column('95 % from', 'mean_low', _TIMES),
         Column('to', 'mean_high', _TIMES), Column('best', 'best', _TIMES),
         Column('best at', 'best_at')),
        [r for r in records['speedups'] if r['decoder'] == 'all' or (
            r['against'] == ALIKE and (r['policy'], r['reader']) == ('optimal', 'ours'))])]
    for source in options.sources:
        tables.append(Table(
            f'A layer, {source}: median ms (and the factor against the baseline)',
            (Column('decoder', 'decoder'), Column('sparsity', 'sparsity', '{:.0%}'),
             *(Column(contender.label, contender.label) for contender in CONTENDERS)),
            _matrix(records['steps'], source)))
    tables += [
        Table('q+k+v and gate+up stored side by side, or each matrix alone: median ms of a layer',
              (Column('decoder', 'decoder'), Column('sparsity', 'sparsity', '{:.0%}'), *speedup,
               Column('separate', 'separate_ms', _MS), Column('bundled', 'bundled_ms', _MS),
               Column('gain', 'gain', _TIMES), Column('95 % from', 'gain_low', _TIMES),
               Column('to', 'gain_high', _TIMES)),
              [r for r in records['layouts'] if r['source'] == options.sources[0]
               and r['sparsity'] in options.layout_sparsities and (r['policy'], r['reader']) in (
                   ('topk', 'paper'), ('topk', 'ours'), ('optimal', 'ours'))]),
        Table("What the pages of the paper's reader's buffer are worth",
              (Column('decoder', 'decoder'), *speedup,
               Column('pages in a row', 'pages_in_a_row', '{:.1f}'),
               Column('median ms', 'median_ms', _MS),
               Column('MB/s', 'mb_per_second', '{:.0f}')), records['pages']),
        Table('Simulated Jetsons (latency tables made of published figures, nothing measured): '
              "against top-k, beside the paper's own figures at equal accuracy",
              (Column('device', 'device'), Column('baseline from', 'against'),
               Column('storage', 'layout'), Column('policy', 'policy'),
               Column('mean', 'mean', _TIMES), Column('best', 'best', _TIMES),
               Column('best at', 'best_at'), Column("paper's mean", 'paper_mean', _TIMES),
               Column("paper's best", 'paper_best', _TIMES)), records['simulated_speedups']),
        Table('Estimated against measured, every single step of our reader',
              (Column('decoder', 'decoder'), Column('steps', 'steps'),
               Column('R^2', 'r_squared', '{:.3f}'),
               Column('measured / estimated', 'factor', '{:.2f}'),
               Column('median error', 'median_error', '{:.1%}'),
               Column('corrected', 'corrected_error', '{:.1%}')), records['estimates']),
        goals.table(summary)]
    return tables


def _matrix(steps: list[Record], source: str) -> list[Record]:
    """One row for each decoder and sparsity, a column for each contender."""
    rows: dict[tuple, Record] = {}
    for step in steps:
        if (step['source'], step['layout']) != (source, 'bundled'):
            continue
        key = (step['decoder'], step['sparsity'])
        label = Contender(step['policy'], step['reader']).label
        rows.setdefault(key, {'decoder': key[0], 'sparsity': key[1]})[label] = (
            f"{step['median_ms']:.1f} ({step['speedup']:.2f}x)")
    return list(rows.values())
