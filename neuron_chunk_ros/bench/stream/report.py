# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `bench stream` found, as records and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from neuron_chunk_ros.bench import goals
from neuron_chunk_ros.bench.report import Column, Record, Report, Table
from neuron_chunk_ros.bench.statistics import median_interval, ratio_interval, resampled
from neuron_chunk_ros.bench.stream.measure import (
    MODES,
    Appended,
    Asked,
    Measured,
    StreamOptions,
    Way,
)

_MS = '{:.0f}'
_MB = '{:.1f}'
_TIMES = '{:.2f}x'


def report(options: StreamOptions, measured: Measured, facts: Record) -> Report:
    """Hold questions about a stream against the same with the frames in hand."""
    draws = resampled(options.repeats, np.random.default_rng(options.seed))
    ways, window = options.ways(), max(options.frames)
    asked = {(way, frames, mode): [one for one in measured.asked if (
                 one.way, one.frames, one.mode) == (way, frames, mode)]
             for way in ways for frames in options.frames for mode in MODES}
    appended = {(way, held): [one for one in measured.appended
                              if (one.way, one.held) == (way, held)]
                for way in ways for held in range(window + 1)}
    cases = [(way, frames) for way in ways for frames in options.frames]
    records = {
        'questions': [_question(*key, found, draws) for key, found in asked.items()],
        'appends': [_append(way, held, found, window, draws)
                    for (way, held), found in appended.items()],
        'speedups': [_speedup(way, frames, *(asked[way, frames, mode] for mode in MODES), draws)
                     for way, frames in cases],
        'totals': [_total(way, frames, *(asked[way, frames, mode] for mode in MODES),
                          appended[way, frames], draws) for way, frames in cases]}
    summary = [goals.goal(
        f"{way.label}, {frames} in view: times sooner a stream has a question's first word",
        ratio_interval(*(_Times(asked[way, frames, mode]).first for mode in reversed(MODES)),
                       draws)) for way, frames in cases]
    return Report('stream', {**facts, **measured.facts}, records, summary,
                  _tables(options, measured.facts, records))


class _Times:
    """Seconds of one case, float64 [repeats] each."""

    def __init__(self, found: Sequence[Asked]):
        self.first = np.array([one.first_seconds for one in found])
        self.whole = np.array([one.seconds for one in found])


def _as_long(stream: Sequence[Asked], snapshot: Sequence[Asked]) -> bool:
    """Whether answers have as many words, so that their times can be compared."""
    return all(len(one.answer.steps) == len(other.answer.steps)
               for one, other in zip(stream, snapshot, strict=True))


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def _interval(key: str, seconds: np.ndarray, draws: np.ndarray) -> Record:
    found = median_interval(1e3 * seconds, draws)
    return {f'{key}_ms': found.value, f'{key}_low_ms': found.low, f'{key}_high_ms': found.high}


def _ratio(key: str, above: np.ndarray, below: np.ndarray, draws: np.ndarray) -> Record:
    found = ratio_interval(above, below, draws)
    return {key: found.value, f'{key}_low': found.low, f'{key}_high': found.high}


def _question(way: Way, frames: int, mode: str, found: Sequence[Asked],
              draws: np.ndarray) -> Record:
    times = _Times(found)
    answers = [one.answer for one in found]
    return {
        'way': way.label, 'frames': frames, 'mode': mode,
        **_interval('first', times.first, draws), **_interval('answer', times.whole, draws),
        'prompt_tokens': answers[0].steps[0].tokens,
        'words': _median(len(answer.steps) for answer in answers),
        'pixels_ms': 1e3 * _median(answer.timing.preprocess for answer in answers),
        'vision_ms': 1e3 * _median(answer.timing.vision for answer in answers),
        'prefill_ms': 1e3 * _median(answer.timing.prefill for answer in answers),
        'decode_ms': 1e3 * _median(answer.timing.decode for answer in answers),
        'prefill_mb': _median(answer.steps[0].bytes_read / 1e6 for answer in answers),
        'answer_mb': _median(answer.io.bytes_read / 1e6 for answer in answers),
        'mb_s': _median(answer.io.bytes_read / 1e6 / answer.io.read_seconds
                        for answer in answers)}


def _append(way: Way, held: int, found: Sequence[Appended], window: int,
            draws: np.ndarray) -> Record:
    seconds = np.array([one.seconds for one in found])
    decoder = np.array([sum(bill.seconds for bill in one.bills) for one in found])
    return {
        'way': way.label, 'held': held, 'leaves': 'yes' if held == window else 'no',
        'tokens': sum(bill.tokens for bill in found[0].bills), **_interval('all', seconds, draws),
        # What isn't the decoder's: the picture's way to pixels, and the vision tower.
        'vision_ms': 1e3 * _median(seconds - decoder), 'decoder_ms': 1e3 * _median(decoder),
        'mb': _median(_mb(one) for one in found),
        'mb_s': _median(_mb(one) / sum(bill.read_seconds for bill in one.bills)
                        for one in found)}


def _mb(one: Appended) -> float:
    return sum(bill.bytes_read for bill in one.bills) / 1e6


def _speedup(way: Way, frames: int, stream: Sequence[Asked], snapshot: Sequence[Asked],
             draws: np.ndarray) -> Record:
    ours, theirs = _Times(stream), _Times(snapshot)
    record = {'way': way.label, 'frames': frames}
    for key, mine, other in (('first', ours.first, theirs.first),
                             ('answer', ours.whole, theirs.whole)):
        record |= {f'{key}_stream_ms': 1e3 * _median(mine),
                   f'{key}_snapshot_ms': 1e3 * _median(other), **_ratio(key, other, mine, draws)}
    return record if _as_long(stream, snapshot) else record | dict.fromkeys(
        ('answer', 'answer_low', 'answer_high'))


def _total(way: Way, frames: int, stream: Sequence[Asked], snapshot: Sequence[Asked],
           appended: Sequence[Appended], draws: np.ndarray) -> Record:
    """One more frame comes and one question: what it takes from first to last."""
    append = np.array([one.seconds for one in appended])
    asking, other = _Times(stream).whole, _Times(snapshot).whole
    record = {
        'way': way.label, 'frames': frames, 'stream_ms': 1e3 * _median(append + asking),
        'snapshot_ms': 1e3 * _median(other), **_ratio('times', other, append + asking, draws),
        'stream_mb': _median(_mb(frame) + one.answer.io.bytes_read / 1e6
                             for frame, one in zip(appended, stream, strict=True)),
        'snapshot_mb': _median(one.answer.io.bytes_read / 1e6 for one in snapshot),
        'frames_a_question': (_median(other) - _median(asking)) / _median(append)}
    return record if _as_long(stream, snapshot) else record | dict.fromkeys(
        ('times', 'times_low', 'times_high', 'frames_a_question'))


def _tables(options: StreamOptions, facts: Record,
            records: dict[str, list[Record]]) -> list[Table]:
    what = {**facts, 'direct': 'yes' if facts['direct_io'] else 'no',
            'source': facts['profile']['source'], 'repeats': options.repeats}
    case = (Column('policy', 'way'), Column('frames in view', 'frames'))
    return [
        Table('What was asked', (
            Column('model', 'model'), Column('MB on flash', 'flash_mb', _MB),
            Column('back end', 'backend'), Column('direct I/O', 'direct'),
            Column('profile', 'source'), Column('repeats', 'repeats')), [what]),
        Table("A question's first word and its whole answer: median ms, and how many times "
              'sooner a stream has them', (
                  *case, *(Column(heading, f'{key}_{end}', form) for key, name in (
                      ('first', 'first word'), ('answer', 'answer')) for heading, end, form in (
                          (f'{name}, stream', 'stream_ms', _MS),
                          (f'{name}, snapshot', 'snapshot_ms', _MS))),
                  *(Column(heading, key, _TIMES) for name, start in (
                      ('first word', 'first'), ('answer', 'answer')) for heading, key in (
                          (f'{name} sooner', start), ('95 % from', f'{start}_low'),
                          ('to', f'{start}_high')))), records['speedups']),
        Table("Where a question's time goes: median ms", (
            *case, Column('mode', 'mode'), Column('prompt tokens', 'prompt_tokens'),
            Column('pixels', 'pixels_ms', _MS), Column('vision', 'vision_ms', _MS),
            Column('first pass', 'prefill_ms', _MS), Column('words', 'words', '{:g}'),
            Column('further passes', 'decode_ms', _MS),
            Column('MB to the first word', 'prefill_mb', _MB),
            Column('MB in all', 'answer_mb', _MB), Column('MB/s while reading', 'mb_s', _MS)),
            records['questions']),
        Table('Appending a frame: median ms', (
            Column('policy', 'way'), Column('in view before', 'held'),
            Column('one leaves', 'leaves'), Column('tokens', 'tokens'),
            Column('in all', 'all_ms', _MS), Column('95 % from', 'all_low_ms', _MS),
            Column('to', 'all_high_ms', _MS), Column('pixels and vision', 'vision_ms', _MS),
            Column('decoder', 'decoder_ms', _MS), Column('MB', 'mb', _MB),
            Column('MB/s while reading', 'mb_s', _MS)), records['appends']),
        Table('One more frame and one question, the work of both: a stream appends, then answers',
              (*case, Column('stream ms', 'stream_ms', _MS),
               Column('snapshot ms', 'snapshot_ms', _MS), Column('less work', 'times', _TIMES),
               Column('95 % from', 'times_low', _TIMES), Column('to', 'times_high', _TIMES),
               Column('stream MB', 'stream_mb', _MB), Column('snapshot MB', 'snapshot_mb', _MB),
               Column('frames a question at equal work', 'frames_a_question', '{:.1f}')),
              records['totals'])]
