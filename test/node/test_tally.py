# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tally: sums, percentiles, events and errors, from many threads."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_chunk_ros.engine.telemetry import Answer, StepTelemetry, Timing
from neuron_chunk_ros.node.tally import HISTORY, Counts, Latency, Recent, Tally


def answer(tokens=4, total=2.0, **io):
    step = StepTelemetry('answer', **io)
    return Answer('two', 1.0, tokens, 'stop', Timing(total=total), step, [step])


class Clock:
    """Seconds that pass when told to."""

    now = 100.0

    def __call__(self):
        return self.now


def test_a_new_tally_is_empty():
    assert Tally().now() == Counts()


@given(st.lists(st.floats(0.0, 1e4), min_size=1, max_size=3 * HISTORY))
def test_percentiles_are_of_the_last_answers(seconds):
    tally = Tally()
    for one in seconds:
        tally.answered(answer(), one)
    last = seconds[-HISTORY:]
    assert tally.now().latency == Latency(
        pytest.approx(np.percentile(last, 50)), pytest.approx(np.percentile(last, 95)), max(last))
    assert tally.now().answered == len(seconds)
    assert tally.now().last_seconds == seconds[-1]


def test_tokens_a_second_are_the_engines_waiting_apart():
    tally = Tally()
    tally.answered(answer(tokens=4, total=2.0), 60.0)
    assert tally.now().last_tokens_per_second == tally.now().tokens_per_second == 2.0
    tally.answered(answer(tokens=12, total=2.0), 2.0)
    assert tally.now().last_tokens_per_second == 6.0
    assert tally.now().tokens_per_second == 4.0
    for _ in range(10):
        tally.answered(answer(tokens=1, total=1.0), 1.0)
    assert tally.now().tokens_per_second == 1.0, 'only recent answers count'
    tally.answered(answer(tokens=0, total=0.0), 0.0)
    assert tally.now().last_tokens_per_second == 0.0


def test_answers_and_frames_add_to_what_was_read():
    tally = Tally()
    tally.answered(answer(bytes_read=100, read_seconds=1.0, profile_seconds=0.5), 1.0)
    tally.appended(StepTelemetry('append', bytes_read=50, read_seconds=0.5, profile_seconds=0.5),
                   0.25)
    counts = tally.now()
    assert (counts.answered, counts.appended, counts.bytes_read) == (1, 1, 150)
    assert (counts.last_bytes_read, counts.last_read_seconds) == (100, 1.0)
    assert counts.last_append_seconds == 0.25
    assert counts.recent == Recent(150, 1.5, 1.0)


def test_recent_reads_reach_back_until_they_can_be_compared():
    tally = Tally()

    def read(profile_seconds, times):
        for _ in range(times):
            tally.appended(StepTelemetry('append', bytes_read=1, read_seconds=1.0,
                                         profile_seconds=profile_seconds), 0.1)
    read(1 / 64, 20)
    assert tally.now().recent == Recent(20, 20.0, 20 / 64), 'all, where they are too short'
    read(1 / 64, 40)
    assert tally.now().recent == Recent(32, 32.0, 0.5), 'enough to compare, no more'
    read(1.0, 5)
    assert tally.now().recent.bytes_read == 10, 'never fewer than ten'
    read(0.0, 3 * HISTORY)
    assert tally.now().recent.bytes_read == HISTORY, 'the history is bounded'


def test_errors_last_until_good_work():
    for good in (lambda t: t.answered(answer(), 1.0),
                 lambda t: t.appended(StepTelemetry('append'), 1.0)):
        tally = Tally()
        tally.read_failed('flash-1: Input/output error')
        tally.model_failed('RuntimeError: out of luck')
        tally.refused('the prompt is empty')
        tally.missed_deadline('1 s passed')
        counts = tally.now()
        assert counts.read_error == 'flash-1: Input/output error'
        assert counts.model_error == 'RuntimeError: out of luck'
        assert (counts.failed, counts.refused, counts.missed) == (2, 1, 1)
        good(tally)
        assert (tally.now().read_error, tally.now().model_error) == ('', '')
        assert tally.now().failed == 2


def test_coarse_answers_leave_the_drives_error():
    """Good work without the drive is none of the drive's."""
    tally = Tally()
    tally.answered(answer(coarse=True, fault='flash-1: gone', tokens_drafted=4,
                          tokens_accepted=3), 1.0)
    tally.appended(StepTelemetry('append', coarse=True, fault='flash-2: gone'), 1.0)
    counts = tally.now()
    assert (counts.read_error, counts.coarse, counts.failed) == ('flash-2: gone', 2, 0)
    assert (counts.drafted, counts.accepted) == (4, 3)
    tally.answered(answer(coarse=True), 1.0)  # for want of time
    assert (tally.now().read_error, tally.now().coarse) == ('', 3)


def test_events_grow_old():
    clock = Clock()
    tally = Tally(clock)
    tally.refused('queue full', overload=True)
    clock.now += 1.0
    tally.refused('the prompt is empty')
    tally.missed_deadline('1 s passed')
    clock.now += 2.5
    counts = tally.now()
    told = {name: (event.reason, event.age) for name in ('refusal', 'overload', 'miss')
            if (event := getattr(counts, f'last_{name}'))}
    assert told == {'refusal': ('the prompt is empty', 2.5), 'overload': ('queue full', 3.5),
                    'miss': ('1 s passed', 2.5)}


def test_clear_forgets_everything():
    tally = Tally()
    tally.answered(answer(bytes_read=1), 1.0)
    tally.appended(StepTelemetry('append', bytes_read=1), 1.0)
    tally.refused('full', overload=True)
    tally.missed_deadline('late')
    tally.read_failed('gone')
    tally.model_failed('broken')
    tally.clear()
    assert tally.now() == Counts()


def test_nothing_is_lost_between_threads():
    tally, seen = Tally(), []

    def work():
        for _ in range(300):
            tally.answered(answer(bytes_read=1), 1.0)
            tally.refused('full', overload=True)
            seen.append(tally.now())
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = tally.now()
    assert (counts.answered, counts.refused, counts.bytes_read) == (1200, 1200, 1200)
    assert all(c.bytes_read == c.answered for c in seen), 'counts of one moment belong together'
