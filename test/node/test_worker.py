# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The worker alone: order, limits, cancelling, and surviving what it is given."""

import threading
import time

import pytest

from neuron_chunk_ros.node.worker import QueueFullError, Worker


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
    assert worker.load() == (True, 2) and order == []
    free.set()
    for ticket in (first, *tickets):
        ticket.wait()
    assert order == [0, 1] and first.result == 'done'


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
    assert isinstance(ticket.error, ZeroDivisionError)
    ticket = worker.submit(lambda _: 'alive')
    ticket.wait()
    assert ticket.result == 'alive'


def test_cancel_tells_the_running_and_drops_the_waiting(worker):
    free, running = hold(worker)
    waiting = worker.submit(lambda _: 'never')
    assert worker.cancel('enough') == 2
    free.set()
    waiting.wait()
    running.wait()
    assert (waiting.result, waiting.cancelled, running.result) == (None, 'enough', 'enough')


def test_deadline_counts_from_arrival(worker):
    free, _ = hold(worker)
    ticket = worker.submit(lambda t: t.remaining(), deadline=1.0)
    time.sleep(0.2)
    free.set()
    ticket.wait()
    assert 0 < ticket.result < 0.81


def test_close_refuses_new_work_and_reports_what_does_not_end():
    worker = Worker(queue_limit=1)
    free, _ = hold(worker)
    assert not worker.close('closing', 0.05)
    with pytest.raises(QueueFullError, match='closing'):
        worker.submit(lambda _: None)
    free.set()
    assert worker.close('closing', 5.0)
