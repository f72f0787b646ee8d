# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Responses go out at the pace at which clients look at them; those that wait, in their order."""

import os
import threading
import time
import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
from rclpy._rclpy_pybind11 import RCLError

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


@pytest.mark.parametrize('raises', [False, True], ids=['Jazzy warns', 'Humble raises'])
def test_what_had_no_client_yet_is_sent_again(raises):
    sent = Counter()

    def send(response, header):
        sent[header] += 1
        if sent[header] <= header:
            if raises:
                raise RCLError('failed to send response')
            warnings.warn('failed to send response (timeout): not there', RuntimeWarning, 2)

    service = SimpleNamespace(send_response=send)
    box = Outbox(service, Turns(lambda: 1))
    for number in (3, 0, 1):
        service.send_response(SimpleNamespace(success=True), number)
    limit = time.monotonic() + 5
    while sent != {0: 1, 1: 2, 3: 4} and time.monotonic() < limit:
        time.sleep(0.01)
    service.send_response(SimpleNamespace(success=True), 99)
    began = time.monotonic()
    box.close(5.0)
    # At the end what has no client is let go.
    assert sent[99] <= 2 and time.monotonic() < began + 1
    assert sent == {0: 1, 1: 2, 3: 4, 99: sent[99]}
