# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Responses go out at the pace at which clients look at them; those that wait, in their order."""

import os
import threading
import time
from types import SimpleNamespace

import pytest

from neuron_chunk_ros.node import outbox
from neuron_chunk_ros.node.outbox import Outbox, Turns

CLIENTS = 10 * len(os.sched_getaffinity(0))
LOOK = 10 * outbox._LOOK  # of all clients at one response [s]


@pytest.mark.parametrize('messages', [1, 3])
def test_no_more_is_sent_than_is_looked_at(messages):
    turns, sent = Turns(lambda: CLIENTS), []

    def respond():
        for _ in range(4):
            turns.wait(messages)
            sent.append(time.monotonic())

    threads = [threading.Thread(target=respond) for _ in range(6)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 24
    for number, when in enumerate(sorted(sent), start=1):
        in_queues = outbox._AT_ONCE + messages
        assert when - began >= (number * messages - in_queues) * LOOK - 1e-3


def test_answers_overtake_refusals_and_all_are_sent_at_the_end():
    sent = []
    service = SimpleNamespace(send_response=lambda response, header: sent.append(header))
    box = Outbox(service, Turns(lambda: CLIENTS))
    for number in range(20):
        service.send_response(SimpleNamespace(success=number == 19), number)
    box.close(10.0)
    assert sorted(sent) == list(range(20))
    assert sent.index(19) < 10
    service.send_response(SimpleNamespace(success=False), 20)
    assert sent[-1] == 20
