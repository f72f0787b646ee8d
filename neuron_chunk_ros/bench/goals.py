# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the project set out to reach, held against what a run reached."""

from __future__ import annotations

from neuron_chunk_ros.bench.report import Column, Record, Table
from neuron_chunk_ros.bench.statistics import Interval

_COLUMNS = (Column('what', 'what'), Column('wanted', 'wanted'),
            Column('reached', 'reached', '{:.3g}'), Column('95 % from', 'low', '{:.3g}'),
            Column('to', 'high', '{:.3g}'), Column('met', 'met'))


def goal(what: str, reached: Interval | float, at_least: float | None = None,
         at_most: float | None = None, unit: str = '') -> Record:
    """Return the record of one figure; without a bound it is just reported."""
    if not isinstance(reached, Interval):
        reached = Interval(reached, float('nan'), float('nan'))
    wanted, met = '', ''
    if at_least is not None:
        wanted, met = f'>= {at_least:g}{unit}', reached.value >= at_least
    if at_most is not None:
        wanted, met = f'<= {at_most:g}{unit}', reached.value <= at_most
    return {'what': what, 'wanted': wanted, 'reached': reached.value, 'low': reached.low,
            'high': reached.high, 'met': {True: 'yes', False: 'NO', '': ''}[met]}


def table(records: list[Record]) -> Table:
    """Lay goals out."""
    return Table('What was to be reached', _COLUMNS, records)
