# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""An engine that fails in a way nobody foresaw: told in the response and in diagnostics."""

import pytest

from neuron_chunk_interfaces.srv import Query
from neuron_chunk_ros.model.session import Session
from neuron_chunk_ros.node import statuses
from neuron_chunk_ros.node.answering import Answering
from neuron_chunk_ros.node.frames import Frames
from neuron_chunk_ros.node.model_loading import bundle_path
from neuron_chunk_ros.node.parameters import PARAMETERS, Settings
from neuron_chunk_ros.node.tally import Tally
from neuron_chunk_ros.node.worker import Worker


@pytest.fixture
def parts(client):
    """A session, a tally, and the service callback that joins them."""
    settings = Settings(**{parameter.name: parameter.default for parameter in PARAMETERS})
    session, tally, worker = Session.open(bundle_path('tabletop')), Tally(), Worker(1)
    answering = Answering(session, settings, Frames(client.node, 'raw'), worker, tally,
                          client.node.get_logger(), lambda _: None, lambda _: None)
    yield session, tally, lambda picture: answering.query(
        Query.Request(prompt='how many things are there?', images=[picture]), Query.Response())
    worker.close('the test is over', 5.0)
    session.close()


def test_unforeseen_failure(parts, picture):
    session, tally, ask = parts
    assert ask(picture).success
    assert statuses.model(tally.now(), (False, 0), 4, {}).level == statuses.OK
    session.close()  # what comes now is an error no one planned for
    for failed in (1, 2):
        response = ask(picture)
        assert not response.success and response.message.startswith('question failed: ')
        assert '\n' not in response.message
        assert tally.now().failed == failed
    status = statuses.model(tally.now(), (False, 0), 4, {})
    assert status.level == statuses.ERROR and 'last question failed' in status.message


def test_an_error_is_cleared_by_the_next_good_answer(parts, picture):
    _, tally, ask = parts
    tally.model_failed('RuntimeError: out of luck')
    tally.read_failed('flash-1: offset 4096: Input/output error')
    assert ask(picture).success
    assert (tally.now().model_error, tally.now().read_error) == ('', '')
    assert tally.now().failed == 2


def test_a_refusal_is_no_error(parts, picture):
    _, tally, ask = parts
    tally.read_failed('flash-1: offset 4096: Input/output error')
    picture.encoding = 'rainbow'
    assert not ask(picture).success
    assert tally.now().refused == 1 and tally.now().read_error
