# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Drafted tokens: the same text as one at a time, whatever the drafter says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_chunk_ros import Session
from neuron_chunk_ros.engine.drafts import Drafting, PromptLookup

QUESTION = 'what colour is the circle'


def picture():
    return np.random.default_rng(3).integers(0, 256, (56, 56, 3), np.uint8)


class Oracle:
    """Knows how the answer goes on, and is wrong at every `wrong`th token."""

    def __init__(self, tokens, wrong):
        self.tokens, self.wrong, self.asked = tokens, wrong, []

    def propose(self, tokens, most):
        at = next(i for i in range(len(self.tokens), -1, -1)
                  if list(tokens[len(tokens) - i:]) == self.tokens[:i])
        drafts = [token + (i % self.wrong == self.wrong - 1)
                  for i, token in enumerate(self.tokens[at:at + most])]
        self.asked.append(drafts)
        return drafts


def answer(session, drafter, most=24):
    session._runner._drafting = Drafting(drafter) if drafter else None
    found = session.ask(QUESTION, [picture()], max_new_tokens=most)
    return found


@pytest.mark.parametrize('wrong', [1, 2, 5, 99])
@pytest.mark.parametrize('family', ['tiny-llava-onevision', 'tiny-qwen2-vl'])
def test_text_and_confidence_are_those_of_one_token_at_a_time(tiny_bundles, family, wrong):
    with Session.open(tiny_bundles[family]) as session:
        told = []
        generate = session._runner._text
        session._runner._text = lambda ids: told.append(list(ids)) or generate(ids)
        want = answer(session, None)
        oracle = Oracle(told[-1], wrong)
        got = answer(session, oracle)
    assert (got.text, got.tokens, got.finish_reason) == (
        want.text, want.tokens, want.finish_reason)
    assert got.confidence == pytest.approx(want.confidence, rel=1e-3)
    assert got.io.tokens_drafted == sum(s.tokens_drafted for s in got.steps)
    assert 0 <= got.io.tokens_accepted <= got.io.tokens_drafted
    assert (got.io.tokens_accepted > 0) == (wrong > 1)
    assert len(got.steps) - 1 == want.tokens - 1 - got.io.tokens_accepted


def test_steps_that_skip_rows_are_not_drafted_for(tiny_bundles):
    """A choice that several tokens share would be another one than each of theirs."""
    with Session.open(tiny_bundles['tiny-llava-onevision'], policy='topk',
                      sparsity=0.5) as session:
        assert answer(session, Oracle([1, 2, 3], 9)).io.tokens_drafted == 0


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 6))
def test_lookup_finds_what_followed(tokens, most):
    found = PromptLookup().propose(tokens, most)
    assert len(found) <= most
    if found:
        assert any(tokens[i - 2:i] == tokens[-2:] and tokens[i:i + len(found)] == found
                   for i in range(2, len(tokens)))


def test_it_ends_where_it_does_not_pay():
    drafting = Drafting(Oracle([7] * 99, 99))
    for _ in range(3):
        drafting.observe(1.0, 0, 0)
    for _ in range(2):
        assert drafting.propose([7], 4)
        drafting.observe(2.0, 4, 0)     # twice the time, no draft right
    assert drafting.propose([7], 4) == []
    for _ in range(99):
        drafting.propose([7], 4)
    assert drafting.propose([7], 4)     # and is tried again later
    drafting.observe(2.0, 4, 4)         # five tokens for two
    assert drafting.propose([7], 4)
