# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The optimal selection: against trying everything on small cases, and by its invariants."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros import _native
from neuron_chunk_ros.chunking import runs

PRICES = 2.0 ** (-np.arange(1, 32 * 64) / 64)  # the scale optimal_selection.cpp searches

CASES = st.fixed_dictionaries({
    'rows': st.integers(1, 300), 'cell': st.integers(1, 9), 'seed': st.integers(0, 10_000),
    'run': st.floats(0, 50), 'row': st.floats(0.01, 5), 'sigma': st.floats(0, 2.5),
})


def made(case):
    rng = np.random.default_rng(case['seed'])
    importance = rng.lognormal(sigma=case['sigma'], size=case['rows']).astype(np.float32)
    if case['seed'] % 3 == 0:
        importance = np.round(importance)  # ties and zeros
    return importance, (case['cell'], case['run'], case['row'])


def cost(chosen, costs):
    return len(chosen) * costs[1] + runs.count(chosen) * costs[2]


def kept(importance, chosen):
    return float(importance[runs.indices(chosen)].sum(dtype=np.float64))


def solve(importance, target, value, costs, price=-1):
    return _native.select_optimal(importance, target, value, *costs, price)[0]


def everything(importance, costs):
    """Return cost, rows, kept of every selection of whole cells."""
    cell, run, row = costs
    count = len(importance)
    starts = range(0, count, cell)
    found = []
    for taken in itertools.product((False, True), repeat=len(starts)):
        mask = np.repeat(taken, cell)[:count]
        begins = sum(1 for i, t in enumerate(taken) if t and (i == 0 or not taken[i - 1]))
        found.append((begins * run + mask.sum() * row, mask.sum(),
                      float(importance[mask].sum(dtype=np.float64))))
    return np.array(found).T


@pytest.mark.parametrize('seed', range(60))
@pytest.mark.parametrize('target', ['rows', 'cost', 'kept'])
def test_against_trying_everything(seed, target):
    rng = np.random.default_rng(seed)
    cell = int(rng.integers(1, 4))
    count = int(rng.integers(1, 10 * cell))
    importance = rng.lognormal(sigma=rng.uniform(0, 2), size=count).astype(np.float32)
    costs = (cell, float(rng.uniform(0, 4)), float(rng.uniform(0.2, 2)))
    costs_of, rows_of, kept_of = everything(importance, costs)
    # What each price of the scale buys, found by trying everything.
    largest = max(importance[i:i + cell].sum(dtype=np.float64) for i in range(0, count, cell))
    cell_cost = costs[2] * min(cell, count)
    bought = np.unique([np.argmax(kept_of - price * largest / cell_cost * costs_of)
                        for price in PRICES[::4]])
    bought = np.append(bought, np.argmax(rows_of))
    spent_of = {'rows': rows_of, 'cost': costs_of, 'kept': kept_of}[target]
    for value in rng.uniform(0, 1.02, size=8) * spent_of.max():
        chosen = solve(importance, target, value, costs)
        mine = kept(importance, chosen)
        if target == 'kept':
            assert mine >= value * (1 - 1e-6) or runs.count(chosen) == count
            cheapest = costs_of[bought][kept_of[bought] >= value * (1 + 1e-6)].min(
                initial=costs_of.max())
            assert cost(chosen, costs) <= cheapest * (1 + 1e-6)
        else:
            spent = runs.count(chosen) if target == 'rows' else cost(chosen, costs)
            assert spent <= value * (1 + 1e-6)
            best = kept_of[bought][spent_of[bought] <= value * (1 - 1e-6)].max(initial=0.0)
            assert mine >= best * (1 - 1e-5)


@pytest.mark.slow
def test_time_budgets_are_spent_nearly_as_well_as_can_be():
    """The best under a budget may lie between two prices; what that loses is small."""
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(150):
        importance = rng.lognormal(sigma=1, size=12).astype(np.float32)
        costs = (1, float(rng.uniform(0.5, 4)), 1.0)
        costs_of, _, kept_of = everything(importance, costs)
        budget = rng.uniform(0.3, 0.9) * costs_of.max()
        chosen = solve(importance, 'cost', budget, costs)
        ratios.append(kept(importance, chosen) / kept_of[costs_of <= budget].max())
    assert np.mean(ratios) > 0.95 and np.median(ratios) > 0.98


@settings(deadline=None, max_examples=300)
@given(case=CASES, target=st.sampled_from(('rows', 'cost', 'kept')), part=st.floats(0, 1.1),
       price=st.integers(-1, 2048))
def test_invariants(case, target, part, price):
    importance, costs = made(case)
    count = len(importance)
    whole = {'rows': count, 'cost': costs[1] + count * costs[2],
             'kept': float(importance.sum(dtype=np.float64))}[target]
    value = part * whole
    chosen = solve(importance, target, value, costs)
    ends = chosen.sum(axis=1)
    assert (chosen[:, 1] > 0).all() and (chosen[1:, 0] > ends[:-1]).all()
    assert (chosen[:, 0] % costs[0] == 0).all()
    assert ((ends % costs[0] == 0) | (ends == count)).all()
    if target == 'rows':
        assert runs.count(chosen) <= value
    elif target == 'cost':
        assert cost(chosen, costs) <= value * (1 + 1e-5)
    else:
        assert kept(importance, chosen) >= min(value, whole) * (1 - 1e-6)
    if part >= 1 and whole > 0:
        assert runs.count(chosen) == count
    assert np.array_equal(chosen, solve(importance, target, value, costs, price)), (
        'where the search begins must not matter')


@settings(deadline=None, max_examples=200)
@given(case=CASES, target=st.sampled_from(('rows', 'cost')), parts=st.lists(
    st.floats(0, 1.05), min_size=2, max_size=8))
def test_a_larger_budget_never_keeps_less(case, target, parts):
    importance, costs = made(case)
    whole = len(importance) if target == 'rows' else costs[1] + len(importance) * costs[2]
    mine = [kept(importance, solve(importance, target, part * whole, costs))
            for part in sorted(parts)]
    assert all(b >= a * (1 - 1e-6) for a, b in itertools.pairwise(mine)), mine


def test_no_gap_is_cheaper_to_read_than_to_skip():
    """So a selection never takes longer than reading everything."""
    importance = np.random.default_rng(2).lognormal(size=5000).astype(np.float32)
    for part in (0.3, 0.5, 0.7, 0.9):
        chosen = solve(importance, 'cost', part * 5010, (1, 10.0, 1.0))
        gaps = chosen[1:, 0] - chosen[:-1].sum(axis=1)
        # The splice may leave one gap that is shorter.
        assert (gaps < 10).sum() <= 1


@pytest.mark.parametrize('target', ['rows', 'cost', 'kept'])
def test_odd_importance(target):
    costs = (1, 2.0, 1.0)
    odd = np.array([1, np.nan, -3, np.inf, 0, 2], np.float32)
    chosen = solve(odd, target, 3, costs)
    assert 3 in runs.indices(chosen), 'an infinite importance is the largest there is'
    plain = np.array([1, 0, 0, 7, 0, 2], np.float32)
    odd[3] = 7
    assert np.array_equal(solve(odd, target, 3, costs), solve(plain, target, 3, costs))
    nothing = np.zeros(5, np.float32)
    assert runs.count(solve(nothing, target, 0, costs)) == 0
    assert len(solve(np.empty(0, np.float32), target, 3, costs)) == 0
    assert solve(np.ones(1, np.float32), target, 100, costs).tolist() == [[0, 1]]
    assert len(solve(np.ones(4, np.float32), target, -1, costs)) == 0


def test_equal_importance_fills_the_budget():
    chosen = solve(np.ones(100, np.float32), 'rows', 37, (1, 5.0, 1.0))
    assert chosen.tolist() == [[0, 37]]


@pytest.mark.parametrize('costs', [(0, 1, 1), (1, -1, 1), (1, 1, 0), (1, np.inf, 1),
                                   (1, 1, np.nan)])
def test_bad_costs_are_refused(costs):
    with pytest.raises(ValueError, match='cell_rows|run_cost|row_cost'):
        solve(np.ones(3, np.float32), 'rows', 2, costs)


def test_bad_targets_are_refused():
    with pytest.raises(ValueError, match="'rows', 'cost' or 'kept'"):
        solve(np.ones(3, np.float32), 'time', 2, (1, 1.0, 1.0))
    with pytest.raises(ValueError, match='not a number'):
        solve(np.ones(3, np.float32), 'rows', np.nan, (1, 1.0, 1.0))
    with pytest.raises(ValueError, match='1-D'):
        solve(np.ones((3, 2), np.float32), 'rows', 2, (1, 1.0, 1.0))


@settings(deadline=None)
@given(case=CASES)
def test_frontier_lies_on_what_the_selection_reaches(case):
    importance, costs = made(case)
    points = _native.frontier(importance, *costs)
    assert points.shape == (17, 2)
    total = float(importance.sum(dtype=np.float64))
    assert points[-1] == pytest.approx([costs[1] + len(importance) * costs[2], total], rel=1e-4)
    assert (np.diff(points[:, 0]) >= -1e-4 * points[-1, 0]).all()
    for spent, reached in points[::4]:
        mine = kept(importance, solve(importance, 'cost', spent * (1 + 1e-4) + 1e-9, costs))
        assert mine >= reached - 1e-4 * max(total, 1e-9)


@pytest.mark.parametrize('cell_rows', [10, 11, 1000, 2**62, 2**63 - 1])
def test_a_cell_is_no_larger_than_the_group(cell_rows):
    values = np.ones(10, np.float32)
    for value, rows in ((12.9, 0), (13.0, 10)):
        chosen, _ = _native.select_optimal(values, 'cost', value, cell_rows, 3.0, 1.0)
        assert chosen[:, 1].sum() == rows
    points = _native.frontier(values, cell_rows, 3.0, 1.0)
    assert points[-1] == pytest.approx([13.0, 10.0])


@pytest.mark.parametrize('costs', [(1, 1e308, 1e308), (2**62, 0.0, 1.7e308), (1, 0.0, 1e308)])
def test_costs_that_are_no_numbers_together_are_refused(costs):
    values = np.ones(10, np.float32)
    with pytest.raises(ValueError, match='add up to a number'):
        _native.frontier(values, *costs)
    with pytest.raises(ValueError, match='add up to a number'):
        _native.select_optimal(values, 'cost', 1.0, *costs)
