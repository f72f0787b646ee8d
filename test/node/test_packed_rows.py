# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Four-bit rows, and rows in two parts, on each path of a node; with order, heads, deadlines.

The shipped bundle, which all other tests run on, has rows of eight bits.
"""

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from node_client import image, until

from neuron_chunk_ros.prepare.calibrate import calibrate
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.rewrite import rewrite
from neuron_chunk_ros.tabletop import shipped
from neuron_chunk_ros.tabletop.questions import sample
from neuron_chunk_ros.tabletop.scenes import Scene, Thing, render

QUESTION = 'what colour is the circle?'


def scene(colour):
    return render(Scene((Thing(colour, 'circle', 0.3, 0.4, 0.28, 0.0),), 'plain',
                        ((120, 120, 120), (120, 120, 120)), 1), (320, 240))


@pytest.fixture(scope='module')
def four_bits(tmp_path_factory):
    folder = tmp_path_factory.mktemp('four-bits')
    return convert(shipped.model_dir(), folder / 'bundle', rows='int4').path


@pytest.fixture(scope='module')
def hot(four_bits):
    rng = np.random.default_rng(0)
    drawn = [sample(rng, kind) for kind in ('colour', 'shape', 'count', 'relation') * 2]
    calibrate(four_bits, ((question.text, [render(one, (320, 240)) for one in scenes])
                          for scenes, question in drawn))
    return rewrite(four_bits, four_bits.with_name('hot'), 'hot-cold').path


def ask_everything(vlm):
    """Ask on each path; return the bills by path. Coarse rows may add a word to an answer."""
    bills = {}
    # A question with images of its own is a snapshot, also in a stream.
    answer = vlm.ask(QUESTION, images=[image(scene('red'))]).answer
    assert answer.text.startswith('red')
    bills['snapshot'] = answer.io
    shown = image(scene('blue'), (7, 0))
    until(lambda: vlm.show(shown) or any(
        step.step == 'append' and step.header.stamp.sec == 7 for step in vlm.steps), 20.0,
        'a frame to go in')
    answer = vlm.ask(QUESTION).answer
    assert answer.text.startswith('blue')
    bills['stream'] = answer.io
    got = vlm.outcome(vlm.send_goal(lambda feedback: None, QUESTION,
                                    images=[image(scene('green'))]))
    assert got.status == GoalStatus.STATUS_SUCCEEDED
    assert got.result.answer.text.startswith('green')
    bills['action'] = got.result.answer.io
    return bills


@pytest.fixture(scope='module')
def two_parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two-parts')
    return convert(shipped.model_dir(), folder / 'bundle', rows='int8', base=4).path


@pytest.mark.slow
@pytest.mark.parametrize('rows, share', [('four_bits', 0.281), ('two_parts', 0.25)])
def test_every_path(start, vlm, request, rows, share):
    coarse = start(rows, mode='stream', window=2, model=request.getfixturevalue(rows))
    dense = ask_everything(coarse)
    fine = vlm.ask(QUESTION, images=[image(scene('red'))]).answer.io
    # Of bfloat16's bytes, against int8's .504.
    assert 0.9 < dense['snapshot'].bytes_read / fine.bytes_read / (share / 0.504) < 1.1
    assert coarse.set(policy='topk', sparsity=0.4) == ''  # optimal may find reading all faster
    for path, bill in ask_everything(coarse).items():
        # An answer of one more word reads more.
        whole = dense[path].bytes_used / dense[path].tokens
        assert 0 < bill.bytes_used / bill.tokens < whole, path
        assert bill.rows_selected < bill.rows_total, path
    assert coarse.set(policy='optimal', deadline_ms=1000.0) == ''
    assert all(bill.rows_selected == bill.rows_total for bill in ask_everything(coarse).values())
    assert coarse.set(deadline_ms=0.05) == ''
    for bill in ask_everything(coarse).values():
        assert bill.deadline_missed


@pytest.mark.slow
def test_hot_rows_held(start, hot, four_bits):
    """In hot-cold order, with as much memory for heads as the budget leaves."""
    whole = ask_everything(start('cold', mode='stream', window=2, model=four_bits))
    vlm = start('hot', mode='stream', window=2, model=hot, policy='optimal', sparsity=0.3,
                memory_budget_mb=300)
    for path, bill in ask_everything(vlm).items():
        assert bill.bytes_read < 0.7 * whole[path].bytes_read, path
