# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Answers under deadline_ms: right whatever it says, and the misses are told."""

import statistics

import numpy as np
import pytest

from neuron_chunk_ros import Session
from neuron_chunk_ros.tabletop.questions import SINGLE_VIEW, sample
from neuron_chunk_ros.tabletop.scenes import render
from neuron_chunk_ros.tabletop.shipped import bundle_dir

QUESTIONS = 18


@pytest.fixture(scope='module')
def exam():
    """Give (question, pictures) of every kind."""
    rng = np.random.default_rng(5)
    drawn = [sample(rng, SINGLE_VIEW[i % len(SINGLE_VIEW)]) for i in range(QUESTIONS)]
    return [(question, [render(scene) for scene in scenes]) for scenes, question in drawn]


def marks(session, exam):
    """Return (how many are right, the answers' bills)."""
    answers = [session.ask(question.text, pictures, max_new_tokens=4)
               for question, pictures in exam]
    right = sum(answer.text == question.answer
                for answer, (question, _) in zip(answers, exam, strict=True))
    return right, [answer.io for answer in answers]


@pytest.mark.parametrize('factor', [
    0.1, *(pytest.param(factor, marks=pytest.mark.slow) for factor in (0.5, 1, 1.5)), 3])
def test_answers_are_right_under_any_deadline(exam, factor):
    with Session.open(bundle_dir(), policy='optimal') as session:
        dense, bills = marks(session, exam)
        step = statistics.median(
            s.seconds for question, pictures in exam[:4]
            for s in session.ask(question.text, pictures, max_new_tokens=4).steps)
        session.configure(deadline_ms=1e3 * factor * step)
        right, late = marks(session, exam)
    assert dense >= QUESTIONS - 1 and not any(bill.deadline_missed for bill in bills)
    assert right >= dense - 1
    if factor < 0.2:
        assert all(bill.deadline_missed for bill in late)
    if factor == 3:
        # What fits is read whole.
        assert sum(bill.rows_selected == bill.rows_total for bill in late) > QUESTIONS // 2
