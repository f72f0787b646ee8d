# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What compression does to a published decoder, as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuron_chunk_ros.bench.report import Column, Record, Report, Table
from neuron_chunk_ros.bench.text.answers import Spoken
from neuron_chunk_ros.bench.text.measure import Outcome, TextOptions

GOALS = {  # of bfloat16's perplexity, at most
    'recipe int8': 1.01, 'recipe int4': 1.07, 'int8/4, all refined': 1.01,
    'int8/4, 30% of the rows, 64 tokens alike': 1.03,
    'int8/4, 30% of the rows, each token its own': 1.02, 'int8/4, base alone': 1.07}
PER_PASS, FASTER = 4.0, 2.5
_DRAWS, _SEED = 2000, 20_017


def report(options: TextOptions, outcomes: Sequence[Outcome], spoken: Sequence[Spoken],
           facts: Record) -> Report:
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
    said = [{**vars(one), 'per_pass': one.tokens / max(1, one.passes),
             'right': one.accepted / max(1, one.drafted),
             'faster': one.seconds_without / one.seconds} for one in spoken]
    if said:
        tables.append(Table(
            f'{spoken[0].answers} questions, greedy, refinements read at each step',
            [Column('rows', 'how'), Column("bfloat16's words", 'as_plain', '{:d}'),
             Column('the same with drafts', 'identical', '{:d}'),
             Column('tokens a pass', 'per_pass', '{:.2f}'),
             Column('drafts right', 'right', '{:.2f}'),
             Column('decoding with drafts', 'faster', '{:.2f}x')], said))
    lines = [f'{one["what"]}: {one["reached"]:.4f}x, wanted at most {one["wanted"]}x: '
             f'{"holds" if one["holds"] else "FALLS SHORT"}.' for one in summary]
    lines += [f'{one["how"]}: {one[key]:.2f} {what}, wanted at least {wanted}: '
              f'{"holds" if one[key] >= wanted else "FALLS SHORT"}.' for one in said
              for key, what, wanted in (('per_pass', 'tokens a pass', PER_PASS),
                                        ('faster', 'times as fast with drafts', FASTER))]
    return Report('text', {**facts, 'windows': options.windows, 'samples': options.samples},
                  {'rows': records, 'drafts': said}, summary, tables, lines=lines)


def _record(one: Outcome, plain: Outcome, draws: np.ndarray) -> Record:
    ratios = np.exp((one.loss - plain.loss)[draws].mean(axis=1))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {'how': one.how, 'perplexity': one.perplexity,
            'ratio': one.perplexity / plain.perplexity, 'ratio_low': float(low),
            'ratio_high': float(high),
            'agreement': float((one.choices == plain.choices).mean()),
            'bytes': one.decoder_bytes / plain.decoder_bytes}
