# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Work that is cancelled ends soon, wherever it is, and everything can go on afterwards."""

import copy
import dataclasses
import shutil
import threading
import time

import numpy as np
import pytest

from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import Stopped
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.presets import PRESETS
from neuron_chunk_ros.prepare.synthesize import synthesize

pytestmark = pytest.mark.slow

SOON = 0.1  # seconds
TRIES = 6   # on a busy machine anything may take long once


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    """Give a bundle whose down_proj has many small rows, which take long to read."""
    config = copy.deepcopy(PRESETS['tiny-llava-onevision'].config)
    config['text_config'].update(hidden_size=256, intermediate_size=65536, num_hidden_layers=1,
                                 max_window_layers=1)
    folder = tmp_path_factory.mktemp('interrupt')
    preset = dataclasses.replace(PRESETS['tiny-llava-onevision'], config=config)
    bundle = convert(synthesize(preset, folder / 'model'), folder / 'bundle').path
    shutil.rmtree(folder / 'model')
    yield bundle
    shutil.rmtree(bundle)


@pytest.fixture(scope='module')
def session(bundle):
    """Give one that reads half of them in one piece, by a single thread: slow storage."""
    with Session.open(bundle, policy='topk', sparsity=0.5, text_sparsity=0.5, backend='threads',
                      threads=1, piece_mb=64) as opened:
        yield opened


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (56, 56, 3), np.uint8)


def slow_enough(step):
    if step.seconds < 4 * SOON:
        pytest.skip(f'reading {step.bytes_read / 1e6:.0f} MB row by row takes '
                    f'{step.seconds:.2f} s here: too fast to show what waiting would cost')


def latency(work, stage, delay=0.15):
    """Return seconds from a cancellation, `delay` s after `stage` began, to the end of the work.

    :param work: called with `cancelled` and `begun`, which it calls with each stage it enters.
    """
    best = 1e9
    for _ in range(TRIES):
        told = [None]
        cancel = threading.Event()

        def set_it(told=told, cancel=cancel):
            told[0] = time.monotonic()
            cancel.set()

        timer = threading.Timer(delay, set_it)

        def begun(name, timer=timer):
            if name == stage and not timer.is_alive() and not timer.finished.is_set():
                timer.start()

        work(cancel.is_set, begun)
        now = time.monotonic()
        timer.cancel()
        assert told[0] is not None, 'the work was over before it was cancelled'
        best = min(best, now - told[0])
        if best < SOON:
            break
    return best


def asking(session, stage):
    def work(cancelled, begun):
        answer = session.ask('what?', [picture()], max_new_tokens=64, cancelled=cancelled,
                             on_progress=lambda name, share, text: begun(name))
        assert answer.finish_reason == 'cancelled'
        assert bool(answer.tokens) == (stage == 'decode')
    return work


@pytest.mark.parametrize('stage', ['prefill', 'decode'])
def test_a_question_is_cancelled_soon(session, stage):
    want = session.ask('what?', [picture()], max_new_tokens=1)
    slow_enough(want.steps[0])
    assert latency(asking(session, stage), stage) < SOON
    assert session.ask('what?', [picture()], max_new_tokens=1).text == want.text


def test_a_frame_is_cancelled_soon(session):
    stream = session.stream(window=1)
    slow_enough(stream.append(picture()))
    before = [part.clone() for pair in session._memory.take(0, stream.tokens) for part in pair]

    def work(cancelled, begun):
        begun('append')
        with pytest.raises(Stopped, match='cancelled'):
            stream.append(picture(1), cancelled=cancelled)

    assert latency(work, 'append') < SOON
    for was, part in zip(before, (part for pair in session._memory.take(0, stream.tokens)
                                  for part in pair), strict=True):
        assert was.equal(part)
    assert len(stream.frames) == 1


def test_the_vision_tower_is_left_between_its_layers(session):
    """Each of its products is made slow; the cancellation doesn't wait for the last."""
    handles = [module.register_forward_hook(lambda *_: time.sleep(0.04))
               for name, module in session._model.model.vision_tower.named_modules()
               if name.endswith(('fc1', 'fc2', '_proj'))]
    assert len(handles) * 0.04 > 4 * SOON
    try:
        assert latency(asking(session, 'vision'), 'vision') < SOON
    finally:
        for handle in handles:
            handle.remove()


def test_a_deadline_comes_in_the_middle_of_a_read(session):
    slow_enough(session.ask('what?', [picture()], max_new_tokens=1).steps[0])
    best = 1e9
    for _ in range(TRIES):
        started = time.monotonic()
        answer = session.ask('what?', [picture()], deadline=0.3)
        best = min(best, time.monotonic() - started - 0.3)
        assert answer.finish_reason == 'deadline'
    assert best < SOON


def test_looking_goes_on_while_a_read_is_waited_for(session):
    """Waiting for a piece takes many times as long as there is between two looks."""
    longest = 1e9
    for _ in range(TRIES):
        looks = []
        answer = session.ask('what?', [], max_new_tokens=1,
                             cancelled=lambda looks=looks: looks.append(time.monotonic()))
        slow_enough(answer.steps[0])
        longest = min(longest, max(np.diff(looks)))
        if longest < SOON:
            break
    assert longest < SOON
