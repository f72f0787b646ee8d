# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `bench end-to-end` found, as records, tables, five lines and a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuron_chunk_ros.bench.end_to_end.measure import EndToEndOptions, Found, Process
from neuron_chunk_ros.bench.goals import goal
from neuron_chunk_ros.bench.report import Column, Record, Report, Table

_S, _MB, _TIMES = '{:.3f}', '{:,.0f}', '{:.2f}'


def report(options: EndToEndOptions, found: Found, facts: Record) -> Report:
    """Lay out a run."""
    records = [record for process in found.processes for record in _records(process, found)]
    passes = [{'decoder': name, 'mb': found.pass_bytes[name] / 1e6,
               'seconds': float(np.median(seconds)), 'least': min(seconds),
               'most': max(seconds), 'gb_s': found.pass_bytes[name] / 1e9 / np.median(seconds)}
              for name, seconds in found.passes.items()]
    lines = _lines(records, passes)
    made = Report('end-to-end', {**facts, 'ceilings_enforced': found.enforced},
                  {'runs': records, 'passes': passes}, _summary(records),
                  _tables(records, passes), lines=lines, short=_short(records))
    made.add_figure('seconds', lambda: _draw(records, passes),
                    'Seconds from a frame to its first word and from word to word, by memory '
                    'ceiling; the dotted line is one pass of the weights by direct reads.')
    return made


def _median(found: Sequence[Record], key: str) -> float:
    return float(np.median([one[key] for one in found])) if found else float('nan')


def _records(process: Process, found: Found) -> list[Record]:
    told = [one for one in process.told if not one['warm_up']]
    memory = next((one for one in process.told if one['what'] == 'memory'), {})
    peak = next((one['over_base'] for one in process.told if one['what'] == 'peak'), None)
    start = next((one['seconds'] for one in process.told if one['what'] == 'start'), None)
    ways = list(dict.fromkeys(one['way'] for one in process.told if one['way'])) or ['']
    made = []
    for way in ways:
        mine = {what: [one for one in told if (one['way'], one['what']) == (way, what)]
                for what in ('frame', 'decode', 'first')}
        frame, decode = mine['frame'], mine['decode']
        record = {
            'decoder': process.decoder, 'ceiling_mb': process.ceiling / 1e6,
            'share': process.ceiling / found.weights[process.decoder],
            'who': (', '.join(filter(None, ['here', way])) if process.contestant == 'ours'
                    else process.contestant),
            'frame_s': _median(frame, 'seconds'), 'frame_mb': _median(frame, 'bytes') / 1e6,
            'frames': len(frame), 'decode_s': _median(decode, 'seconds'),
            'decode_mb': _median(decode, 'bytes') / 1e6, 'decodes': len(decode),
            'first_s': _median(mine['first'], 'seconds'),
            'start_s': start if way.endswith('dense') or not way else None,
            'peak_mb': peak and peak / 1e6, 'heads_mb': memory.get('heads'),
            'note': process.fault}
        if frame and 'wait' in frame[0]:
            record |= {f'frame_{key}_s': _median(frame, key)
                       for key in ('compute', 'wait', 'read', 'choose')}
            record |= {f'decode_{key}_s': _median(decode, key)
                       for key in ('compute', 'wait', 'read', 'choose')}
        made.append(record)
    return made


def _one(records: Sequence[Record], decoder: str, share: float, who: str) -> Record | None:
    return next((one for one in records if one['decoder'] == decoder and one['who'] == who
                 and abs(one['share'] - share) < 0.01), None)


def _cases(records: Sequence[Record]) -> list[tuple[str, float]]:
    return list(dict.fromkeys((one['decoder'], round(one['share'], 2)) for one in records))


def _summary(records: Sequence[Record]) -> list[Record]:
    made = []
    for decoder, share in _cases(records):
        dense = _one(records, decoder, share, 'here, dense')
        if dense is None or not dense['decodes']:
            continue
        case = f'{decoder}, ceiling {share:.0%}'
        for one in records:
            if one['frames'] and one['who'].endswith('skipped') and (
                    one['decoder'], round(one['share'], 2)) == (decoder, share):
                half = '50%' in one['who']
                whole = _one(records, decoder, share, f'{one["who"].rpartition(", ")[0]}, dense')
                made.append(goal(f'{case}: frame, {one["who"][6:]}, against dense',
                                 one['frame_s'] / whole['frame_s'],
                                 at_most=0.70 if half else 1.03, unit='x'))
                if half:
                    made.append(goal(f'{case}: waited in it, of the reading',
                                     one['frame_wait_s'] / max(one['frame_read_s'], 1e-9),
                                     at_most=0.15))
        other = _one(records, decoder, share, 'llama.cpp, memory-mapped BF16')
        if other is not None and other['decodes']:
            half = _one(records, decoder, share, 'here, 50% skipped')
            made.append(goal(f'{case}: decode, dense, times faster than llama.cpp BF16',
                             other['decode_s'] / dense['decode_s'], at_least=2.3, unit='x'))
            if half is not None and half['decodes']:
                made.append(goal(f'{case}: decode, 50 % skipped, times faster than that',
                                 other['decode_s'] / half['decode_s'], at_least=5, unit='x'))
        if dense['peak_mb'] and share < 1:
            made.append(goal(f'{case}: memory used of the ceiling',
                             dense['peak_mb'] / dense['ceiling_mb'], at_least=0.9))
    return made


def _lines(records: Sequence[Record], passes: Sequence[Record]) -> list[str]:
    """Say in five lines what it comes to: the largest decoder, at half of its weights."""
    if not records:
        return []
    decoder = records[-1]['decoder']
    share = min((share for name, share in _cases(records) if name == decoder),
                key=lambda share: abs(share - 0.5))
    dense = _one(records, decoder, share, 'here, dense')
    half = _one(records, decoder, share, 'here, 50% skipped')
    once = next(one for one in passes if one['decoder'] == decoder)
    lines = [f'{decoder} under a ceiling of {share:.0%} of its weights; the decoder once through '
             f'by direct reads takes {once["seconds"]:.2f} s ({once["gb_s"]:.1f} GB/s).']
    if dense is not None:
        lines.append(f'A frame of 196 tokens: {dense["frame_s"]:.2f} s with every row'
                     + (f', {half["frame_s"]:.2f} s with half of them.' if half else '.'))
        lines.append(f'A word: {dense["decode_s"]:.2f} s'
                     + (f', {half["decode_s"]:.2f} s.' if half else '.'))
    others = [one for one in records if one['decoder'] == decoder
              and round(one['share'], 2) == share and not one['who'].startswith('here')]
    told = [f'{one["who"]} {one["decode_s"]:.2f} s' for one in others
            if not np.isnan(one['decode_s'])]
    if told:
        lines.append('A word elsewhere: ' + ', '.join(told) + '.')
    packed = [one for one in records if one['decoder'] == decoder
              and round(one['share'], 2) == share and one['who'].endswith(' rows, dense')
              and one['decodes']]
    if packed:
        lines[-1] += ' From packed rows: ' + ', '.join(
            f'{one["who"].split()[1]} {one["decode_s"]:.2f} s' for one in packed) + '.'
    if dense is not None and dense['peak_mb']:
        lines.append(f'Memory: {dense["peak_mb"]:.0f} of {dense["ceiling_mb"]:.0f} MB, of which '
                     f'{dense["heads_mb"]:.0f} MiB are rows that need not be read.')
    return lines


_WHERE = (Column('decoder', 'decoder'), Column('ceiling', 'share', '{:.0%}'),
          Column('', 'who'))
_TIMINGS = (Column('frame, s', 'frame_s', _S), Column('word, s', 'decode_s', _S),
            Column('first word, s', 'first_s', _S))


def _tables(records: Sequence[Record], passes: Sequence[Record]) -> list[Table]:
    return [
        Table('Once through the weights by direct reads, before and after', (
            Column('decoder', 'decoder'), Column('MB', 'mb', _MB),
            Column('median s', 'seconds', _S), Column('least', 'least', _S),
            Column('most', 'most', _S), Column('GB/s', 'gb_s', '{:.2f}')), passes),
        Table('Seconds by the clock on the wall: medians', (
            *_WHERE, *_TIMINGS, Column('frames', 'frames'), Column('words', 'decodes'),
            Column('MB a frame', 'frame_mb', _MB), Column('MB a word', 'decode_mb', _MB),
            Column('start to first word, s', 'start_s', '{:.2f}'),
            Column('peak MB', 'peak_mb', _MB), Column('ceiling MB', 'ceiling_mb', _MB),
            Column('note', 'note')), records),
        Table('Where the time of a step goes here: median seconds', (
            *_WHERE, *(Column(f'{what}, {key}', f'{what}_{key}_s', _S)
                       for what in ('frame', 'decode')
                       for key in ('compute', 'wait', 'choose', 'read')),
            Column('heads MiB', 'heads_mb', '{:.0f}')),
            [one for one in records if 'frame_wait_s' in one])]


def _short(records: Sequence[Record]) -> Table | None:
    if not records:
        return None
    decoder = records[-1]['decoder']
    share = min((share for name, share in _cases(records) if name == decoder),
                key=lambda share: abs(share - 0.5))
    return Table(f'{decoder}, memory ceiling {share:.0%} of the weights', (
        Column('', 'who'), *_TIMINGS, Column('MB read a word', 'decode_mb', _MB),
        Column('peak MB', 'peak_mb', _MB)),
        [one for one in records if one['decoder'] == decoder
         and round(one['share'], 2) == share])


def _draw(records: Sequence[Record], passes: Sequence[Record]):
    from neuron_chunk_ros.bench.figures import BLACK, BLUE, ORANGE, panels
    cases = _cases(records)
    figure, axes = panels(len(cases), 'From a frame to its first word, and from word to word')
    for axis, (decoder, share) in zip(axes, cases, strict=True):
        mine = [one for one in records
                if (one['decoder'], round(one['share'], 2)) == (decoder, share)]
        at = np.arange(len(mine))
        axis.barh(at + 0.2, [one['first_s'] for one in mine], 0.38, color=BLUE,
                  label='first word')
        axis.barh(at - 0.2, [one['decode_s'] for one in mine], 0.38, color=ORANGE, label='word')
        once = next(one['seconds'] for one in passes if one['decoder'] == decoder)
        axis.axvline(once, color=BLACK, linestyle=':', linewidth=1)
        axis.set_yticks(at, [one['who'] for one in mine], fontsize=7)
        axis.invert_yaxis()
        axis.set_xscale('log')
        axis.set_xlabel('seconds', fontsize=8)
        axis.set_title(f'{decoder}, ceiling {share:.0%}', fontsize=9)
    axes[0].legend(fontsize=7)
    return figure
