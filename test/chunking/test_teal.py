# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""TEAL's greedy allocation against a plain transcription, and what must hold of any table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.chunking.teal import CAP, LARGEST, LEVELS, STEP, allocate


def plain(parameters, error, levels, step, largest, cap):
    """Raise what is cheapest, evaluating everything each time; read levels off the path."""
    names = list(parameters)
    whole = sum(parameters.values())
    path = [(0.0, dict.fromkeys(names, 0.0))]
    while path[-1][0] < levels[-1]:
        mean, state = path[-1]
        now, options = error(state), []
        for name in names:
            by = min(step * whole / parameters[name], largest, cap - state[name])
            if by > 1e-9:
                trial = dict(state)
                trial[name] += by
                price = (error(trial) - now) / (by * parameters[name])
                options.append((price, names.index(name), trial))
        trial = min(options, key=lambda option: option[:2])[2]
        path.append((sum(trial[n] * parameters[n] for n in names) / whole, trial))
    means = [mean for mean, _ in path]
    return {name: np.interp(levels, means, [state[name] for _, state in path]) for name in names}


def coupled(seed, groups):
    """Return the error of a random chain of layers whose groups disturb each other."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(groups, groups)) / groups
    mixing = mixing @ mixing.T + np.diag(rng.uniform(0.01, 3, groups))
    power = rng.uniform(0.6, 3, groups)

    def error(sparsity):
        values = np.array(list(sparsity.values())) ** power
        return float(values @ mixing @ values)
    return error


SIZES = st.lists(st.integers(1, 1000), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 1 << 30))
def test_equals_the_plain_transcription(sizes, seed):
    parameters = {f'g{i}': size for i, size in enumerate(sizes)}
    error = coupled(seed, len(sizes))
    got = allocate(parameters, error, lazy=False)
    want = plain(parameters, error, LEVELS, STEP, LARGEST, CAP)
    for name in parameters:
        np.testing.assert_allclose(got[name], want[name], atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 1 << 30))
def test_every_table_adds_up(sizes, seed):
    parameters = {f'g{i}': size for i, size in enumerate(sizes)}
    seen = []
    table = allocate(parameters, coupled(seed, len(sizes)),
                     raised=lambda sparsity, mean: seen.append((dict(sparsity), mean)))
    weights = list(parameters.values())
    for index, level in enumerate(LEVELS):
        values = [table[name][index] for name in parameters]
        assert np.average(values, weights=weights) == pytest.approx(level, abs=1e-9)
        assert 0 <= min(values) and max(values) <= CAP + 1e-12
    for values in table.values():
        assert np.all(np.diff(values) >= -1e-12)
    # one group at a time is raised, never by more than allowed
    for (before, low), (after, high) in zip(seen, seen[1:], strict=False):
        moved = [name for name in parameters if after[name] != before[name]]
        assert len(moved) == 1 and high > low
        assert after[moved[0]] - before[moved[0]] <= LARGEST + 1e-12


def test_independent_errors_need_no_second_look():
    """Where groups don't disturb each other, lazy evaluation gives the very same table."""
    parameters = {'a': 1000, 'b': 3000, 'c': 500}

    def error(sparsity):
        return 3 * sparsity['a'] ** 2 + 0.5 * sparsity['b'] ** 1.5 + sparsity['c'] ** 3

    calls = {True: 0, False: 0}
    tables = {}
    for lazy in calls:
        def counted(sparsity, lazy=lazy):
            calls[lazy] += 1
            return error(sparsity)
        tables[lazy] = allocate(parameters, counted, lazy=lazy)
    for name in parameters:
        np.testing.assert_allclose(tables[True][name], tables[False][name], atol=1e-9)
    assert calls[True] < 0.8 * calls[False]


def test_lazy_evaluation_costs_little():
    """On groups that do disturb each other the error is 0.4 % higher, mean of 40 blocks."""
    parameters = {'qkv': 1152, 'o': 896, 'gate_up': 9728, 'down': 4864}
    ratios = []
    for seed in range(40):
        error = coupled(seed, 4)
        lazy, full = ([error({name: values[index] for name, values in table.items()})
                       for index in range(4, len(LEVELS))]
                      for table in (allocate(parameters, error),
                                    allocate(parameters, error, lazy=False)))
        ratios.append(np.divide(lazy, full))
    assert np.mean(ratios) < 1.02


def test_the_group_that_does_not_matter_is_skipped_first():
    table = allocate({'free': 100, 'dear': 300}, lambda s: s['dear'] ** 2)
    at = LEVELS.index(0.2)
    assert table['free'][at] == pytest.approx(0.8) and table['dear'][at] == 0
    assert table['free'][-1] == pytest.approx(CAP)
