# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""An engine that fails in a way nobody foresaw: told in the response and in diagnostics."""

import pytest
import rclpy

from neuron_chunk_interfaces.srv import Query
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.node.active import Active
from neuron_chunk_ros.node.annotated import Annotated
from neuron_chunk_ros.node.diagnostics import ERROR, OK, statuses
from neuron_chunk_ros.node.loaded_model import LoadedModel, bundle_path
from neuron_chunk_ros.node.settings import Parameters
from neuron_chunk_ros.node.tally import Tally
from neuron_chunk_ros.node.worker import Load

IDLE = Load(False, 0, 4)


@pytest.fixture
def parts(client):
    """A session, a tally, and what answers requests with them."""
    node = rclpy.create_node('failing')
    parameters, session, tally = Parameters(node), Session.open(bundle_path('tabletop')), Tally()
    model = LoadedModel(session, parameters.settings, lambda _: None, node.get_logger())
    active = Active(node, model, parameters, tally, lambda _: None, Annotated(node))

    def ask(picture):
        request = Query.Request(prompt='how many things are there?', images=[picture])
        return active.answering.answer(request).fill(Query.Response())
    yield session, tally, ask, parameters.settings
    assert active.close('the test is over', 5.0)
    session.close()
    node.destroy_node()


def test_unforeseen_failure(parts, picture):
    session, tally, ask, limits = parts
    assert ask(picture).success
    assert statuses.model(tally.now(), IDLE, {}, limits).level == OK
    session.close()  # what comes now is an error no one planned for
    for failed in (1, 2):
        response = ask(picture)
        assert not response.success and response.message.startswith('question failed: ')
        assert '\n' not in response.message
        assert tally.now().failed == failed
    status = statuses.model(tally.now(), IDLE, {}, limits)
    assert status.level == ERROR and 'model error: ' in status.message


def test_an_error_is_cleared_by_the_next_good_answer(parts, picture):
    _, tally, ask, _ = parts
    tally.model_failed('RuntimeError: out of luck')
    tally.read_failed('flash-1: offset 4096: Input/output error')
    assert ask(picture).success
    assert (tally.now().model_error, tally.now().read_error) == ('', '')
    assert tally.now().failed == 2


def test_a_refusal_is_no_error(parts, picture):
    _, tally, ask, _ = parts
    tally.read_failed('flash-1: offset 4096: Input/output error')
    picture.encoding = 'rainbow'
    assert not ask(picture).success
    assert tally.now().refused == 1 and tally.now().read_error
