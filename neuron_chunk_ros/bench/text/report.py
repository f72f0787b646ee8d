# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What compression does to a published decoder, as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuron_chunk_ros.bench.report import Column, Record, Report, Table
from neuron_chunk_ros.bench.text.measure import Outcome, TextOptions

GOALS = {  # of bfloat16's perplexity, at most
    'recipe int8': 1.01, 'recipe int4': 1.07, 'int8/4, all refined': 1.01,
    'int8/4, 30% of the rows, 64 tokens alike': 1.03,
    'int8/4, 30% of the rows, each token its own': 1.02, 'int8/4, base alone': 1.07}
_DRAWS, _SEED = 2000, 20_017


def report(options: TextOptions, outcomes: Sequence[Outcome], facts: Record) -> Report:
    """Lay out what was measured; intervals are of 95 %, over windows of the prose."""
    plain = outcomes[0]
    draws = np.random.default_rng(_SEED).integers(
        0, len(plain.loss), (_DRAWS, len(plain.loss)))
    records = [_record(one, plain, draws) for one in outcomes]
    summary = [{'what': f'{one["how"]}: perplexity against bfloat16', 'wanted': GOALS[one['how']],
                'reached': one['ratio'], 'holds': one['ratio'] <= GOALS[one['how']]}
               for one in records if one['how'] in GOALS]
    columns = [Column('rows', 'how'), Column('perplexity', 'perplexity', '{:.3f}'),
               Column('against bfloat16', 'ratio', '{:.4f}x'),
               Column('from', 'ratio_low', '{:.4f}'), Column('to', 'ratio_high', '{:.4f}'),
               Column('same next token', 'agreement', '{:.3f}'),
               Column('decoder bytes', 'bytes', '{:.3f}x')]
    tables = [Table(f'{facts["model"]}, {len(plain.loss)} windows of English prose', columns,
                    records)]
    lines = [f'{one["what"]}: {one["reached"]:.4f}x, wanted at most {one["wanted"]}x: '
             f'{"holds" if one["holds"] else "FALLS SHORT"}.' for one in summary]
    return Report('text', {**facts, 'windows': options.windows, 'samples': options.samples},
                  {'rows': records}, summary, tables, lines=lines)


def _record(one: Outcome, plain: Outcome, draws: np.ndarray) -> Record:
    ratios = np.exp((one.loss - plain.loss)[draws].mean(axis=1))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {'how': one.how, 'perplexity': one.perplexity,
            'ratio': one.perplexity / plain.perplexity, 'ratio_low': float(low),
            'ratio_high': float(high),
            'agreement': float((one.choices == plain.choices).mean()),
            'bytes': one.decoder_bytes / plain.decoder_bytes}
