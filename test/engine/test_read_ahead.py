# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows read ahead of their choice: products stay right, good guesses go on, poor ones stop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.chunking import runs
from neuron_chunk_ros.engine.read_ahead import LastChoice, NextRows
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
@pytest.mark.parametrize('tokens', [1, TOKENS])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2 ** 32))
def test_any_guess_leaves_the_product_right(tiny_bundles, head_mb, tokens, seed):
    """Against the plain product over head, choice and what was read ahead, each row once.

    And never is less kept than without a guess.
    """
    rng = np.random.default_rng(seed)
    with Session.open(tiny_bundles['tiny-qwen2-vl'], policy='optimal', sparsity=0.5,
                      piece_mb=0.02, head_mb=head_mb) as session:
        products, heads, noted = session._products, session._products.heads, {}
        chooser = products.chooser
        plain_choose = chooser.choose

        def choose(group, inputs, step, ahead):
            before = step.bill.importance_kept
            plain_choose(group, inputs, Step('append', tokens))  # another bill
            chosen, ideal = plain_choose(group, inputs, step, ahead)
            kept = (step.bill.importance_kept - before) / group.rows
            noted[group.name] = (chosen, ahead, ideal, kept)
            return chosen, ideal

        chooser.choose = choose
        products._last_choice.guess = lambda name: some_rows(
            rng, heads.rows[name], session.bundle.groups[name].rows)
        for _ in range(2):  # the first one fills the heads
            visual = torch.ones(tokens, dtype=torch.bool) if tokens > 1 else None
            step = Step('append' if tokens > 1 else 'decode', tokens, visual)
            step.begin()
            products.begin(step)
            for group in session.bundle.groups.values():
                inputs = torch.from_numpy(rng.standard_normal((tokens, group.rows), np.float32))
                missing = heads.missing(group)
                got = products.multiply(group, inputs).clone()
                if missing:
                    continue
                chosen, ahead, ideal, kept = noted[group.name]
                taken = np.zeros(group.rows, bool)
                taken[:heads.rows[group.name]] = True
                taken[runs.indices(chosen)] = taken[runs.indices(ahead)] = True
                weights = np.fromfile(session.bundle.path / group.file, np.float32,
                                      group.rows * group.columns, offset=group.offset
                                      ).reshape(group.rows, group.columns)
                want = inputs.numpy()[:, taken] @ weights[taken]
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
                importance = np.abs(inputs.numpy()).mean(axis=0)
                if group.permutation is not None:
                    importance = importance[group.permutation]
                head = np.array([[0, heads.rows[group.name]]], np.int64)
                assert kept >= runs.share(importance, ideal) - 1e-5
                assert kept == pytest.approx(runs.share(importance, np.concatenate(
                    [head, chosen, ahead])), abs=1e-5)
            bill = products.end()
        assert bill.rows_ahead > 0
        assert bill.rows_selected == sum(
            heads.rows[name] + runs.count(chosen) + runs.count(ahead)
            for name, (chosen, ahead, _, _) in noted.items())


def test_the_same_frame_again_wants_what_was_read_ahead(tiny_bundles):
    with Session.open(tiny_bundles['tiny-qwen2-vl'], policy='topk', sparsity=0.5,
                      piece_mb=0.1, drafts=False) as session:
        session._products.chooser.may_exceed = True  # choices of rows, not of whole groups
        stream = session.stream(window=1)
        first, again, other = (stream.append(picture(seed)) for seed in (1, 1, 2))
        assert first.rows_ahead == 0
        assert 0 < again.rows_ahead == again.rows_ahead_wanted
        # The first one had words to look up.
        assert 0 <= first.bytes_read - again.bytes_read < 20_000
        assert again.rows_selected == first.rows_selected
        assert other.rows_ahead_wanted < other.rows_ahead


def test_a_baseline_reads_what_it_chose_and_nothing_else(tiny_bundles):
    with Session.open(tiny_bundles['tiny-qwen2-vl'], policy='topk', sparsity=0.5,
                      piece_mb=0.02, drafts=False) as session:
        stream = session.stream(window=1)
        bills = [stream.append(picture(1)) for _ in range(3)]
        bills += stream.ask('what?', max_new_tokens=6).steps
    assert not any(bill.rows_ahead for bill in bills)


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(st.tuples(st.floats(0, 0.1), st.floats(0, 0.1), st.floats(0, 3e9)),
                      min_size=1, max_size=30))
def test_next_rows_never_outgrow_what_the_idle_drive_delivers(steps):
    rows = NextRows()
    for gap, waited, rate in steps:
        rows.note(('append', 8), 'down', gap, waited, rate)
        assert 0 <= rows.nbytes(('append', 8), 'down') <= max(g for g, _, _ in steps) * rate + 1


def test_next_rows_grow_where_reads_are_waited_for_and_fade_where_not():
    rows, sizes = NextRows(), []
    for waited in 10 * [2e-3] + 40 * [0.0]:
        rows.note(('decode', 1), 'down', 3e-3, waited, 2e9)
        sizes.append(rows.nbytes(('decode', 1), 'down'))
    assert sizes[0] == 2_000_000 and sizes[9] == 6_000_000  # what 3 ms deliver
    assert sizes[-1] < 200_000
    assert rows.nbytes(('append', 8), 'down') == rows.nbytes(('decode', 1), 'o') == 0


def steps_on(chosen, ahead, steps=80):
    """Return in which of some equal steps there was a guess."""
    guesses, on = LastChoice(), []
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
    guesses = LastChoice()
    guesses.begin(('append', 8))
    guesses.note('down', np.array([[0, 9]], np.int64), np.empty((0, 2), np.int64))
    guesses.end()
    guesses.begin(('prefill', 8))
    assert guesses.guess('down') is None
    guesses.begin(None)
    assert guesses.guess('down') is None
