# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames in the active node: the very first, several cameras, time that goes back, settings."""

import copy
import itertools
import threading
import time

import numpy as np
import pytest
import rclpy
from node_client import image, until

from neuron_chunk_interfaces.srv import Query
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.node.active import Active
from neuron_chunk_ros.node.annotated import Annotated
from neuron_chunk_ros.node.cameras import Camera
from neuron_chunk_ros.node.loaded_model import LoadedModel, bundle_path
from neuron_chunk_ros.node.settings import Parameters, Settings
from neuron_chunk_ros.node.tally import Tally

PROMPT = 'how many things are there?'
NUMBERS = itertools.count()


@pytest.fixture
def activate(client):
    """Make what is there while a node is active, with these settings."""
    made = []

    def make(bundle=None, **settings):
        node = rclpy.create_node(f'seeing_{next(NUMBERS)}')
        parameters, session, tally = (
            Parameters(node), Session.open(bundle or bundle_path('tabletop')), Tally())
        for name, value in settings.items():
            setattr(parameters.settings, name, value)
        answers = []
        model = LoadedModel(session, parameters.settings, lambda _: None, node.get_logger())
        active = Active(node, model, parameters, tally, answers.append, Annotated(node))
        made.append((active, session, node))
        return active, model, answers
    yield make
    for active, session, node in made:
        assert active.close('the test is over', 5.0)
        session.close()
        node.destroy_node()


def at(picture, second):
    """Return a picture with another stamp."""
    message = copy.deepcopy(picture)
    message.header.stamp.sec = second
    return message


def test_a_frame_that_comes_with_the_subscription_is_not_lost(activate, picture, monkeypatch):
    monkeypatch.setattr(Camera, 'subscribe', lambda camera: camera._keep(picture))
    _, _, answers = activate(watch=[PROMPT])
    until(lambda: answers, what='an answer about the first frame')


@pytest.mark.parametrize('camera', ['all', 'b'])
def test_a_camera_may_have_any_name(activate, picture, camera):
    active, model, _ = activate(mode='stream', cameras=['all', 'b'])
    active.cameras[camera]._keep(picture)
    until(lambda: [frame.tag.camera for frame in model.stream.frames] == [camera],
          what='its frame alone')


def test_standing_prompts_are_not_asked_twice_about_the_same_frames(activate, picture):
    active, _, answers = activate(cameras=['a', 'b'], watch=[PROMPT])
    active.cameras['a']._keep(picture)
    active.cameras['b']._keep(picture)
    until(lambda: answers, what='an answer')  # both frames asked for one
    for _ in range(3):
        active._standing.on_view()
        time.sleep(0.3)
    assert [list(answer.cameras) for answer in answers] == [['a', 'b']]
    active.cameras['b']._keep(at(picture, 1000))
    until(lambda: len(answers) == 2, what='an answer about a new frame')


class Log:
    """Takes what a logger is told."""

    def __init__(self):
        self.lines = []

    def warning(self, line):
        self.lines.append(line)

    error = warning


@pytest.mark.parametrize('mode', ['snapshot', 'stream'])
def test_frames_that_the_model_cannot_take_are_refused_and_told_of_once(
        activate, picture, tiny_bundles, mode, monkeypatch):
    """Not a failure of the model; a camera that is fine goes on beside one that isn't."""
    active, model, answers = activate(tiny_bundles['tiny-qwen2-vl'], mode=mode,
                                      cameras=['thin', 'b'])
    log = Log()
    for part in filter(None, (active._streaming, active.answering)):
        monkeypatch.setattr(part, '_logger', log)
    for number in range(1, 6):
        thin = image(np.zeros((1, 300 + number, 3), np.uint8), (number, 0))
        active.cameras['thin']._keep(thin)
        if mode == 'stream':
            until(lambda number=number: active.cameras['thin'].report(True).bad == number,
                  what='a refusal')
        active.cameras['b']._keep(at(picture, number))
        if mode == 'stream':
            until(lambda number=number: [f.tag.header.stamp.sec for f in model.stream.frames][-1:]
                  == [number], what='the other frame')
    report = active.cameras['thin'].report(True)
    if mode == 'stream':
        assert len(log.lines) == 1 and log.lines[0].startswith(
            'frame of thin not taken: an image is 301 x 1 pixels: this model takes none')
        assert '305 x 1 pixels' in report.last_bad
    else:
        outcome = active.answering.answer(Query.Request(prompt=PROMPT))
        assert outcome.answer is None and '305 x 1 pixels' in outcome.message
        assert log.lines == [] and active._tally.now().refused == 1
    counts = active._tally.now()
    assert (counts.failed, counts.model_error, answers) == (0, '', [])


@pytest.mark.parametrize('mode', ['snapshot', 'stream'])
def test_where_time_goes_back_nothing_of_before_is_kept(activate, picture, mode):
    active, model, _ = activate(cameras=['a', 'b'], sync_slop=5.0, mode=mode)
    for camera in ('a', 'b'):
        active.cameras[camera]._keep(at(picture, 100))
    assert len(active.cameras.newest()) == 2
    active.cameras['a']._keep(at(picture, 1))
    assert [len(active.cameras[name].frames()) for name in ('a', 'b')] == [1, 0]
    if mode == 'stream':
        until(lambda: not model.stream.frames, what='an empty stream')
    # A camera whose clock is a little off is no jump.
    active.cameras['b']._keep(at(picture, 2))
    active.cameras['b']._keep(at(picture, 2))
    assert len(active.cameras['b'].frames()) == 2


def test_settings_change_in_one_moment():
    settings = Settings(policy='0', sparsity=0)
    ending = threading.Event()

    def change():
        for number in itertools.count():
            settings.replace(Settings(policy=str(number), sparsity=number))
            if ending.is_set():
                return

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(20_000):
            now = settings.now()
            assert now.policy == str(now.sparsity)
    finally:
        ending.set()
        thread.join()
    with pytest.raises(AttributeError):
        settings.missing  # noqa: B018
