# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows read ahead of their choice: products stay right, good guesses go on, poor ones stop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.chunking import runs
from neuron_chunk_ros.engine.read_ahead import ReadAhead
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.engine.step import Step

TOKENS = 40


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (168, 224, 3), np.uint8)


def some_rows(rng, first, end):
    """Return the runs of about half of the rows from `first` up to `end`."""
    rows = first + np.flatnonzero(rng.random(end - first) < 0.5)
    each = np.stack([rows, np.ones_like(rows)], axis=1).astype(np.int64)
    return runs.union([each, np.empty((0, 2), np.int64)], end) if len(each) else each


@pytest.mark.parametrize('head_mb', [0, 0.1])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2 ** 32))
def test_any_guess_leaves_the_product_right(tiny_bundles, head_mb, seed):
    """Against the plain product over head, choice and what was read ahead, each row once."""
    rng = np.random.default_rng(seed)
    with Session.open(tiny_bundles['tiny-qwen2-vl'], policy='topk', sparsity=0.5, piece_mb=0.02,
                      head_mb=head_mb) as session:
        products, heads, noted = session._products, session._products.heads, {}
        plain_note = products._guesses.note

        def note(name, chosen, ahead):
            noted[name] = (chosen, ahead)
            return plain_note(name, chosen, ahead)

        products._guesses.note = note
        products._guesses.guess = lambda name: some_rows(
            rng, heads.rows[name], session.bundle.groups[name].rows)
        for _ in range(2):  # the first one fills the heads
            step = Step('append', TOKENS, torch.ones(TOKENS, dtype=torch.bool))
            step.begin()
            products.begin(step)
            for group in session.bundle.groups.values():
                inputs = torch.from_numpy(rng.standard_normal((TOKENS, group.rows), np.float32))
                missing = heads.missing(group)
                got = products.multiply(group, inputs).clone()
                if missing:
                    continue
                chosen, ahead = noted[group.name]
                taken = np.zeros(group.rows, bool)
                taken[:heads.rows[group.name]] = True
                taken[runs.indices(chosen)] = taken[runs.indices(ahead)] = True
                weights = np.fromfile(session.bundle.path / group.file, np.float32,
                                      group.rows * group.columns, offset=group.offset
                                      ).reshape(group.rows, group.columns)
                want = inputs.numpy()[:, taken] @ weights[taken]
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
            bill = products.end()
        assert bill.rows_ahead > 0
        assert bill.rows_selected == sum(
            heads.rows[name] + runs.count(runs.difference(chosen, ahead)) + runs.count(ahead)
            for name, (chosen, ahead) in noted.items())


def test_the_same_frame_again_wants_what_was_read_ahead(tiny_bundles):
    with Session.open(tiny_bundles['tiny-qwen2-vl'], policy='topk', sparsity=0.5,
                      piece_mb=0.02, drafts=False) as session:
        stream = session.stream(window=1)
        first, again, other = (stream.append(picture(seed)) for seed in (1, 1, 2))
        assert first.rows_ahead == 0
        assert 0 < again.rows_ahead == again.rows_ahead_wanted
        assert again.bytes_read == first.bytes_read
        assert other.rows_ahead_wanted < other.rows_ahead
        decode = stream.ask('what?', max_new_tokens=3).steps[-1]
        assert decode.step == 'decode' and decode.rows_ahead == 0


def steps_on(chosen, ahead, steps=80):
    """Return in which of some equal steps there was a guess."""
    guesses, on = ReadAhead(), []
    for _ in range(steps):
        guesses.begin(('append', 8))
        guess = guesses.guess('down')
        on.append(guess is not None)
        guesses.note('down', chosen, ahead if guess is not None else np.empty((0, 2), np.int64))
        guesses.end()
    return on


def test_it_stops_where_it_wastes_and_tries_again_later():
    chosen = np.array([[0, 50]], np.int64)
    assert steps_on(chosen, chosen) == [False] + 79 * [True]
    on = steps_on(chosen, np.array([[20, 50]], np.int64))
    assert on[:2] == [False, True] and sum(on) == 3 and not any(on[2:30])


def test_kinds_are_remembered_apart():
    guesses = ReadAhead()
    guesses.begin(('append', 8))
    guesses.note('down', np.array([[0, 9]], np.int64), np.empty((0, 2), np.int64))
    guesses.end()
    guesses.begin(('prefill', 8))
    assert guesses.guess('down') is None
    guesses.begin(None)
    assert guesses.guess('down') is None
