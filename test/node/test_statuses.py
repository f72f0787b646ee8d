# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What each part's status says: every level, every boundary, and never better when worse."""

import dataclasses
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_chunk_ros.node.cameras import FrameReport
from neuron_chunk_ros.node.diagnostics import ERROR, OK, STALE, WARN, statuses
from neuron_chunk_ros.node.diagnostics.thresholds import BADNESS, EVENT_SECONDS
from neuron_chunk_ros.node.parameters import PARAMETERS
from neuron_chunk_ros.node.tally import SLOW_SECONDS, Counts, Event, Latency, Recent
from neuron_chunk_ros.node.worker import Load
from neuron_chunk_ros.storage.profile import Line, Profile

DEFAULTS = {parameter.name: parameter.default for parameter in PARAMETERS}
PARTS = {'resident': 60.0, 'kv_cache': 40.0, 'total': 100.0, 'flash': 900.0}
FRAME = FrameReport(camera='', topic='/image', publishers=1, received=9, age=0.05, rate=30.0,
                    description='640x480 rgb8', dropped=0, bad=0, last_bad='', last_bad_age=None)
IDLE = Load(False, 0, 4)
NONE = 'none yet'


def limits(**changed):
    return SimpleNamespace(**{**DEFAULTS, **changed})


def profile(**about):
    line = Line(1e-5, 2.7e-7)
    return Profile(line, line, 256, 768, 6e-5, 'measured', about={'date': '2026-01-02', **about})


def session(**changed):
    facts = {'backend': 'io_uring', 'direct_io': True, 'notes': [], 'profile': profile(),
             'profile_note': '', 'read_under_way': lambda: 0.0}
    return SimpleNamespace(**{**facts, **changed})


def slow(times, foretold=1.0):
    return Counts(recent=Recent(2_000_000, times * foretold, foretold))


def storage(counts=Counts(), wanted='auto', thresholds=None, **changed):  # noqa: B008
    return statuses.storage(counts, session(**changed), wanted, thresholds or limits())


def model(counts=Counts(), load=IDLE, **changed):  # noqa: B008
    return statuses.model(counts, load, {'policy': 'topk', 'sparsity': 0.5}, limits(**changed))


def frames(active=True, thresholds=None, **changed):
    return statuses.frames(dataclasses.replace(FRAME, **changed), active, thresholds or limits())


def badness(status):
    return BADNESS.index(status.level)


# Storage

def test_good_storage_tells_its_rates():
    status = storage(dataclasses.replace(slow(1.25), bytes_read=7_000_000))
    assert (status.level, status.message) == (OK, 'io_uring, direct I/O')
    assert status.values['recent read rate (MB/s)'] == '1.6'
    assert status.values['read rate by the profile (MB/s)'] == '2.0'
    assert status.values['recent read time / profile'] == '1.25'
    assert status.values['read in all (MB)'] == '7.0'
    assert status.values['profile'] == 'measured 2026-01-02'


def test_nothing_read_yet():
    values = storage().values
    assert values['recent read rate (MB/s)'] == values['recent read time / profile'] == NONE


def test_a_read_error_beats_all_else():
    status = storage(dataclasses.replace(slow(9.0), read_error='flash-1: offset 4096: gone'),
                     direct_io=False)
    assert (status.level, status.message) == (ERROR, 'read error: flash-1: offset 4096: gone')


@pytest.mark.parametrize('wanted, level', [('auto', WARN), ('on', WARN), ('off', OK)])
def test_buffered_reads(wanted, level):
    status = storage(wanted=wanted, direct_io=False, profile=profile(direct_io=0))
    assert status.level == level and 'buffered reads' in status.message


@pytest.mark.parametrize('times, level', [
    (1.5, OK), (1.51, WARN), (5.0, WARN), (5.01, ERROR)])
def test_slow_reads(times, level):
    status = storage(slow(times))
    assert status.level == level
    off = limits(slow_reads_warn=0.0, slow_reads_error=0.0)
    assert storage(slow(times), thresholds=off).level == OK
    limit = {WARN: 'above slow_reads_warn 1.5: ', ERROR: 'above slow_reads_error 5: '}
    if level != OK:
        assert f'times as long as the storage profile says, {limit[level]}' in status.message


@pytest.mark.parametrize('seconds, level', [(0.0, OK), (0.99, OK), (1.0, ERROR), (36.0, ERROR)])
def test_a_read_that_does_not_come_back(seconds, level):
    status = statuses.storage(Counts(), session(read_under_way=lambda: seconds), 'auto', limits())
    assert status.level == level
    assert level == OK or status.message == f'a read has been under way for {seconds:.0f} s'


def test_short_reads_are_not_judged():
    assert storage(slow(9.0, foretold=SLOW_SECONDS)).level == ERROR
    assert storage(slow(9.0, foretold=SLOW_SECONDS * 0.999)).level == OK


def test_a_doubtful_profile_is_told_and_not_compared_with():
    status = storage(slow(9.0), profile_note='no storage profile in /data')
    assert (status.level, status.message) == (WARN, 'io_uring, no storage profile in /data')
    status = storage(slow(9.0), profile=profile(backend='threads'))
    assert status.level == WARN
    assert 'measured with threads direct, reads go by io_uring direct' in status.message


def test_the_worst_is_told_first():
    status = storage(slow(9.0), direct_io=False, profile=profile(direct_io=0))
    assert status.level == ERROR
    assert status.message.startswith('io_uring, reads take 9.0 times')
    assert status.message.endswith('hides what the storage does')


# Model

def test_idle_and_answering():
    assert (model().level, model().message) == (OK, 'idle')
    assert model(load=Load(True, 2, 4)).message == 'answering, 2 waiting'


def test_the_model_tells_its_figures():
    values = model(Counts(
        answered=7, appended=50, refused=3, failed=2, missed=1, coarse=2, drafted=4,
        accepted=3, last_seconds=1.5,
        last_tokens_per_second=4.0, tokens_per_second=5.25, latency=Latency(1.0, 2.0, 3.0),
        last_append_seconds=0.125, last_refusal=Event('no frame', 61.2))).values
    assert values == {
        'policy': 'topk', 'sparsity': 0.5, 'answered': 7, 'frames appended': 50, 'refused': 3,
        'failed': 2, 'deadlines missed': 1, 'waiting': 0, 'queue limit': 4,
        'last answer (s)': '1.500', 'last answer (tokens/s)': '4.0',
        'recent answers (tokens/s)': '5.2', 'answers, median (s)': '1.000',
        'answers, 95th percentile (s)': '2.000', 'answers, longest (s)': '3.000',
        'last frame appended (s)': '0.125', 'last refusal': 'no frame (61 s ago)',
        'last missed deadline': 'none', 'steps beyond deadline_ms': 0,
        'attention kept': '100%', 'coarse': 2, 'drafts right': '75%', 'last error': 'none'}
    assert model().values['answers, longest (s)'] == NONE


@pytest.mark.parametrize('about, warns', [
    ({'attention': 'blindsight', 'head classes': 'none'}, True),
    ({'attention': 'blindsight', 'head classes': 'yes'}, False),
    ({'attention': 'dense', 'head classes': 'none'}, False)])
def test_classes_of_heads_that_are_missing(about, warns):
    status = statuses.model(Counts(), Load(False, 0, 4), about, limits())
    assert (status.level == WARN) == warns
    assert ('attention characterize' in status.message) == warns


def test_a_model_error():
    status = model(Counts(model_error='RuntimeError: out of luck'), Load(False, 4, 4))
    assert (status.level, status.message) == (ERROR, 'model error: RuntimeError: out of luck')


def test_a_refusal_of_a_bad_question_is_no_warning():
    assert model(Counts(refused=1, last_refusal=Event('the prompt is empty', 0.0))).level == OK


@pytest.mark.parametrize('waiting, level', [(3, OK), (4, WARN)])
def test_a_full_queue(waiting, level):
    status = model(load=Load(True, waiting, 4))
    assert status.level == level
    assert status.message.startswith('overloaded: 4 questions wait' if waiting == 4 else 'answ')


@pytest.mark.parametrize('name, text', [
    ('last_overload', 'overloaded: busy (3 s ago)'), ('last_miss', 'deadline missed: busy (3 s')])
def test_events_warn_for_a_while(name, text):
    status = model(Counts(**{name: Event('busy', 3.0)}))
    assert status.level == WARN and status.message.startswith(text)
    assert model(Counts(**{name: Event('busy', EVENT_SECONDS - 0.01)})).level == WARN
    assert model(Counts(**{name: Event('busy', EVENT_SECONDS)})).level == OK


@pytest.mark.parametrize('p95, level', [(2.0, OK), (2.01, WARN), (4.0, WARN), (4.01, ERROR)])
def test_late_answers(p95, level):
    counts = Counts(latency=Latency(0.1, p95, 9.0))
    status = model(counts, latency_warn=2.0, latency_error=4.0)
    assert status.level == level
    assert model(counts).level == OK, 'off by default'
    limit = {WARN: ', above latency_warn 2', ERROR: ', above latency_error 4'}
    if level != OK:
        assert status.message == f'answers take {p95:.2f} s (95th percentile){limit[level]}'


# Frames

def test_good_frames():
    status = frames(dropped=5, bad=2)
    assert (status.level, status.message) == (OK, '30.0 frames/s')
    assert status.values == {
        'topic': '/image', 'publishers': 1, 'received': 9, 'rate (1/s)': '30.0',
        'age (s)': '0.05', 'newest': '640x480 rgb8', 'dropped': 5, 'conversion errors': 2,
        'last conversion error': 'none'}


def test_before_the_first_frame():
    status = frames(age=None, publishers=0, received=0, rate=0.0, description='')
    assert status.level == WARN
    assert status.message.startswith('no frame has come on /image (0 publishers)')
    assert status.values['age (s)'] == status.values['newest'] == NONE


def test_a_node_that_takes_no_frames_misses_none():
    assert frames(active=False, age=None).level == OK
    assert frames(active=False, age=99.0, last_bad='no rainbow').level == OK


@pytest.mark.parametrize('age, level', [
    (2.0, OK), (2.01, STALE), (10.0, STALE), (10.01, ERROR)])
def test_old_frames(age, level):
    status = frames(age=age, rate=0.0)
    assert status.level == level
    off = limits(frame_timeout=0.0, frame_timeout_error=0.0)
    assert frames(age=age, thresholds=off).level == OK
    if level == STALE:
        assert f'newest frame is {age:.1f} s old, above frame_timeout 2' in status.message
    if level == ERROR:
        assert 'newest frame is 10.0 s old, above frame_timeout_error 10' in status.message


def test_one_timeout_without_the_other():
    assert frames(age=11.0, thresholds=limits(frame_timeout_error=0.0)).level == STALE
    assert frames(age=11.0, thresholds=limits(frame_timeout=0.0)).level == ERROR
    assert frames(age=9.0, thresholds=limits(frame_timeout=0.0)).level == OK


def test_a_camera_that_is_gone_is_told():
    assert 'and nobody publishes on /image' in frames(age=3.0, publishers=0).message


@pytest.mark.parametrize('rate, level', [(10.0, OK), (9.99, WARN), (0.0, WARN)])
def test_few_frames(rate, level):
    status = frames(rate=rate, thresholds=limits(frame_rate_warn=10.0))
    assert status.level == level
    assert status.message.endswith(', below frame_rate_warn 10') == (level == WARN)
    assert frames(rate=rate).level == OK, 'off by default'


def test_a_bad_frame():
    status = frames(bad=1, last_bad="encoding 'rainbow'", last_bad_age=60.0)
    assert (status.level, status.message) == (WARN, "encoding 'rainbow'")
    status = frames(bad=1, last_bad_age=3.0)
    assert (status.level, status.message) == (WARN, 'a frame could not be converted 3 s ago')
    assert frames(bad=1, last_bad_age=EVENT_SECONDS - 0.01).level == WARN
    assert frames(bad=1, last_bad_age=EVENT_SECONDS).level == OK


# Memory

@pytest.mark.parametrize('budget, level', [
    (0, OK), (99, ERROR), (100, WARN), (105, WARN), (106, OK), (4096, OK)])
def test_memory(budget, level):
    status = statuses.memory(PARTS, budget, limits())
    assert status.level == level and status.message.startswith('100 MiB held')
    assert status.values['budget (MiB)'] == (budget or 'none')
    asked = statuses.memory(PARTS, budget, limits(), 3 << 20)
    assert asked.values['requests, at most (MiB)'] == '3.0'
    assert float(status.values['process peak (MiB)']) >= float(
        status.values['process now (MiB)']) > 10
    without = statuses.memory(PARTS, budget, limits(memory_warn=0.0))
    assert without.level == (OK if level == WARN else level)


def test_memory_tells_the_parameter():
    assert statuses.memory(PARTS, 99, limits()).message == (
        '100 MiB held, 99 MiB allowed (memory_budget_mb)')
    assert statuses.memory(PARTS, 104, limits()).message == (
        '100 MiB held, 96% of the 104 MiB allowed, above memory_warn 0.95')


# Lifecycle and executor

def test_lifecycle():
    assert statuses.lifecycle('loading', '45 %').message == 'loading: 45 %'
    assert statuses.lifecycle('unconfigured').level == OK
    status = statuses.lifecycle('unconfigured', failure="no bundle in '/data'")
    assert (status.level, status.message) == (ERROR, "unconfigured: no bundle in '/data'")


@pytest.mark.parametrize('delay, level', [(0.0, OK), (0.5, OK), (0.501, WARN)])
def test_executor(delay, level):
    status = statuses.executor(delay)
    assert status.level == level
    assert status.values == {'executor delay, longest (ms)': f'{delay * 1e3:.0f}'}


# Worse is never better

LIMIT = st.one_of(st.just(0.0), st.floats(0.1, 20.0))
TWO = st.tuples(st.floats(0.0, 30.0), st.floats(0.0, 30.0)).map(sorted)


@given(TWO, LIMIT, LIMIT)
def test_slower_reads_are_never_better(times, warn, error):
    thresholds = limits(slow_reads_warn=warn, slow_reads_error=error)
    good, bad = (badness(storage(slow(t), thresholds=thresholds)) for t in times)
    assert good <= bad


@given(TWO, LIMIT, LIMIT)
def test_later_answers_are_never_better(seconds, warn, error):
    good, bad = (badness(model(Counts(latency=Latency(0.0, s, s)), latency_warn=warn,
                               latency_error=error)) for s in seconds)
    assert good <= bad


@given(TWO, TWO, LIMIT, LIMIT, LIMIT)
def test_older_and_fewer_frames_are_never_better(ages, rates, timeout, error, rate):
    thresholds = limits(frame_timeout=timeout, frame_timeout_error=error, frame_rate_warn=rate)
    good, bad = (badness(frames(age=age, rate=rate, thresholds=thresholds))
                 for age, rate in zip(ages, reversed(rates), strict=True))
    assert good <= bad


@given(TWO, st.integers(0, 30), st.floats(0.0, 1.0))
def test_more_memory_is_never_better(totals, budget, share):
    good, bad = (badness(statuses.memory({'total': total}, budget, limits(memory_warn=share)))
                 for total in totals)
    assert good <= bad


@given(st.lists(st.integers(0, 6), min_size=2, max_size=2).map(sorted))
def test_a_longer_queue_is_never_better(waiting):
    good, bad = (badness(model(load=Load(True, n, 4))) for n in waiting)
    assert good <= bad
