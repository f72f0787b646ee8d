# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The worker alone: order, limits, cancelling, and surviving what it is given."""

import functools
import gc
import threading
import time
import weakref

import pytest

from neuron_chunk_ros.node.worker import Load, QueueFullError, Worker


@pytest.fixture
def worker():
    worker = Worker(queue_limit=2)
    yield worker
    assert worker.close('the test is over', 5.0)


def hold(worker):
    """Keep the worker busy; return the event that frees it, and the ticket."""
    started, free = threading.Event(), threading.Event()

    def work(ticket):
        started.set()
        free.wait(10.0)
        return ticket.cancelled or 'done'
    ticket = worker.submit(work)
    assert started.wait(5.0)
    return free, ticket


def test_oldest_first_and_one_at_a_time(worker):
    free, first = hold(worker)
    order = []
    tickets = [worker.submit(lambda _, k=k: order.append(k)) for k in range(2)]
    assert worker.load() == Load(True, 2, 2) and order == []
    free.set()
    for ticket in (first, *tickets):
        ticket.wait()
    assert order == [0, 1] and first.take() == 'done'


def test_more_than_the_limit_is_refused_until_there_is_room(worker):
    free, _ = hold(worker)
    tickets = [worker.submit(lambda _: 'late') for _ in range(2)]
    with pytest.raises(QueueFullError, match='2 questions are waiting'):
        worker.submit(lambda _: None)
    free.set()
    for ticket in tickets:
        ticket.wait()
    worker.submit(lambda _: None).wait()


def test_an_exception_is_kept_and_the_worker_lives(worker):
    ticket = worker.submit(lambda _: 1 / 0)
    ticket.wait()
    with pytest.raises(ZeroDivisionError):
        ticket.take()
    ticket = worker.submit(lambda _: 'alive')
    ticket.wait()
    assert ticket.take() == 'alive'


class Picture:
    """Something whose end shows."""


def look_at(picture, how, _=None):
    held = [picture]
    if how.startswith('failed'):
        try:
            raise KeyError(held)
        except KeyError as error:
            raise ValueError('bad') from error


def take_late(ticket):
    """As a thread does that waits for it."""
    held = [ticket]
    with pytest.raises(ValueError):
        held[0].take()


@pytest.mark.parametrize(
    'how', ['answered', 'failed', 'failed, and taken', 'withdrawn', 'a chore'])
def test_nothing_of_what_is_over_is_held(worker, how):
    """Not by a ticket that somebody keeps, nor until cycles are looked for."""
    picture = Picture()
    gone = weakref.ref(picture)
    free, running = hold(worker)
    gc.disable()
    try:
        work = functools.partial(look_at, picture, how)
        if how == 'a chore':
            worker.offer('look', work)
        else:
            ticket = worker.submit(work)
        del work, picture
        if how == 'withdrawn':
            assert worker.withdraw(ticket, 'never mind')
        free.set()
        assert running.wait(5.0)
        if how == 'failed, and taken':
            assert ticket.wait(5.0)
            take_late(ticket)
        assert worker.submit(lambda _: None).wait(5.0)  # what came before it is over
        until = time.monotonic() + 5.0
        while gone() is not None and time.monotonic() < until:
            time.sleep(0.01)
        assert gone() is None
    finally:
        gc.enable()


def test_cancel_tells_the_running_and_drops_the_waiting(worker):
    free, running = hold(worker)
    waiting = worker.submit(lambda _: 'never')
    assert worker.cancel('enough') == 2
    free.set()
    waiting.wait()
    running.wait()
    assert (waiting.take(), waiting.cancelled, running.take()) == (None, 'enough', 'enough')


def test_deadline_counts_from_arrival(worker):
    free, _ = hold(worker)
    ticket = worker.submit(lambda t: t.remaining(), deadline=1.0)
    time.sleep(0.2)
    free.set()
    ticket.wait()
    assert 0 < ticket.take() < 0.81


def test_close_refuses_new_work_and_reports_what_does_not_end():
    worker = Worker(queue_limit=1)
    free, _ = hold(worker)
    assert not worker.close('closing', 0.05)
    with pytest.raises(QueueFullError, match='closing'):
        worker.submit(lambda _: None)
    free.set()
    assert worker.close('closing', 5.0)


def test_withdrawing_ends_the_wait_of_a_question_that_waits(worker):
    free, running = hold(worker)
    waiting = worker.submit(lambda _: 'never')
    assert worker.withdraw(waiting, 'never mind') and waiting.wait(0.0)
    assert (waiting.take(), waiting.cancelled) == (None, 'never mind')
    assert not worker.withdraw(waiting, 'again') and not worker.withdraw(running, 'too late')
    assert running.cancelled == '' and not running.wait(0.05)
    free.set()
    assert running.wait(5.0) and running.take() == 'done'


def test_a_newer_chore_takes_the_place_of_an_older_one_of_its_kind(worker):
    free, running = hold(worker)
    done = []
    assert worker.offer('left', lambda: done.append('left 1'))
    assert worker.offer('right', lambda: done.append('right 1'))
    assert not worker.offer('left', lambda: done.append('left 2'))
    assert worker.load() == Load(True, 0, 2), 'chores are no questions'
    free.set()
    worker.submit(lambda _: None).wait()
    until_done(worker)
    assert done == ['left 2', 'right 1']


def test_questions_go_first(worker):
    free, _ = hold(worker)
    order = []
    for kind in 'ab':
        worker.offer(kind, lambda kind=kind: order.append(kind))
    tickets = [worker.submit(lambda _, k=k: order.append(k)) for k in range(2)]
    free.set()
    for ticket in tickets:
        ticket.wait()
    until_done(worker)
    assert order == [0, 1, 'a', 'b']


def test_a_chore_makes_way_for_a_question_until_it_has_waited_too_long():
    worker, ways, begun = Worker(queue_limit=2, patience=0.5), [], threading.Event()

    def chore():
        begun.set()
        ended = time.monotonic() + 0.3
        while time.monotonic() < ended and not worker.preempted():
            time.sleep(0.005)
        made_way = worker.preempted()
        ways.append('made way' if made_way else 'went on')
        if made_way:
            worker.offer('frame', chore)

    worker.offer('frame', chore)
    assert begun.wait(5.0)
    began = time.monotonic()
    while 'went on' not in ways:
        # Questions without end, each ready before the chore could be.
        assert worker.submit(lambda _: time.sleep(0.02)).wait(5.0)
        assert time.monotonic() - began < 5.0
    assert ways[-1] == 'went on' and ways[:-1] == ['made way'] * (len(ways) - 1) != []
    assert time.monotonic() - began > 0.45
    assert worker.close('the test is over', 5.0)


def test_a_chore_that_was_not_offered_for_long_has_no_turn_yet():
    worker = Worker(queue_limit=2, patience=0.2)
    done = threading.Event()
    worker.offer('frame', done.set)
    assert done.wait(5.0)
    time.sleep(0.3)
    free, _ = hold(worker)
    order = []
    worker.offer('frame', lambda: order.append('frame'))
    ticket = worker.submit(lambda _: order.append('question'))
    free.set()
    ticket.wait()
    until_done(worker)
    assert order == ['question', 'frame']
    assert worker.close('the test is over', 5.0)


def test_close_forgets_the_chores():
    worker = Worker(queue_limit=1)
    free, running = hold(worker)
    done = []
    worker.offer('left', lambda: done.append('left'))
    free.set()
    assert worker.close('over', 5.0) and worker.offer('left', lambda: done.append('late'))
    with pytest.raises(QueueFullError, match='over'):
        worker.submit(lambda _: None)
    assert 'late' not in done


def until_done(worker):
    """Wait until the worker has nothing left to do."""
    ticket = None
    while ticket is None:
        try:
            ticket = worker.submit(lambda _: None)
        except QueueFullError:
            time.sleep(0.01)
    ticket.wait()
    ended = threading.Event()
    worker.offer('last', ended.set)
    assert ended.wait(5.0)
