# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node under load: diagnostics keep time, the queue has an end, deadlines and reset hold."""

import time

import pytest

LIMIT = 2


def questions(vlm, picture, count, **fields):
    return [vlm.ask_later(images=[picture], max_new_tokens=3000, **fields)
            for _ in range(count)]


@pytest.mark.slow
def test_diagnostics_tick_during_a_long_answer(client, start, long_answers, picture):
    vlm = start('ticking', **long_answers)
    answering, = questions(vlm, picture, 1, deadline=8.0)
    vlm.wait_for_step(answering)
    begin = time.monotonic()
    time.sleep(5.5)
    assert not answering.done(), 'the answer was too short for this test'
    ticks = [at for at, message in client.diagnostics
             if at > begin and message.status[0].name.startswith('ticking:')]
    gaps = [after - before for before, after in zip(ticks, ticks[1:], strict=False)]
    assert len(ticks) >= 5 and max(gaps) < 1.5, gaps
    assert 'answering' in vlm.status('model').message
    response = vlm.result(answering)
    assert response.success and response.answer.finish_reason == 'deadline'
    assert response.message == 'cut short: the deadline of 8 s passed'
    assert response.answer.text and response.answer.timing.total < 10


def test_queue_limit_and_reset(client, start, long_answers, picture):
    vlm = start('queueing', queue_limit=LIMIT, **long_answers)
    running, = questions(vlm, picture, 1)
    vlm.wait_for_step(running)
    waiting = questions(vlm, picture, LIMIT)
    assert vlm.status('model', lambda s: s.level == b'\x01').message.startswith('overloaded: 2')
    for _ in range(5):
        response = vlm.ask(images=[picture])
        assert not response.success and 'queue_limit' in response.message
    assert not running.done() and not any(w.done() for w in waiting)
    reset = vlm.reset()
    assert reset.success and reset.message.startswith('3 questions cancelled')
    for future in (running, *waiting):
        response = vlm.result(future)
        assert not response.success and response.message == 'cancelled by reset'
    values = {v.key: v.value for v in vlm.status('model', lambda s: s.message == 'idle').values}
    assert values['answered'] == '0'
    short = vlm.ask(images=[picture], max_new_tokens=2)
    assert short.success and short.answer.tokens == 2


@pytest.mark.slow
def test_deadline_runs_out_in_the_queue(start, long_answers, picture):
    vlm = start('late', **long_answers)
    first, = questions(vlm, picture, 1, deadline=3.0)
    vlm.wait_for_step(first)
    response = vlm.ask(images=[picture], deadline=0.5)
    told_first = not first.done()
    assert not response.success and 'others were being answered' in response.message
    assert told_first, 'who is late is told when the time is up, not when the others are done'
    status = vlm.status('model', lambda s: s.level == b'\x01')
    assert 'deadline' in status.message
    assert vlm.result(first).answer.finish_reason == 'deadline'
    values = {v.key: v.value for v in vlm.status('model', lambda s: s.level == b'\x00').values}
    assert values['deadlines missed'] == '2'


@pytest.mark.slow
def test_refused_rather_than_cut_short(start, long_answers, picture):
    vlm = start('strict', **long_answers)
    response, = [vlm.ask(images=[picture], max_new_tokens=3000, deadline=1.0, refuse_late=True)]
    assert not response.success and response.answer.text == ''
    assert 'before the answer was whole' in response.message
    assert vlm.ask(images=[picture], max_new_tokens=1, deadline=30.0, refuse_late=True).success
