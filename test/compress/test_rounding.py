# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Grids, quantisers, pruners: what comes out is on the grid, and each does what it is for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.compress import Grid, Linear
from neuron_chunk_ros.compress.algorithms import PRUNERS, QUANTISERS, make
from neuron_chunk_ros.compress.rounding import inverse_factor

SHARED = ('tensor', 'row', 32, 64, 128)
QUICK = {'lsq': {'steps': 20}, 'adaround': {'steps': 20}}


def layer(seed=0, inputs=48, outputs=70, tokens=400, blocks=1):
    """Give a linear layer whose inputs are correlated, a few of them large."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(inputs, inputs)) * np.exp(rng.normal(size=inputs))
    x = (rng.normal(size=(tokens, inputs)) @ mix).astype(np.float32)
    weight = rng.normal(size=(inputs, outputs)).astype(np.float32)
    weight *= np.exp(rng.normal(size=(inputs, 1)))
    parts = np.array_split(np.arange(inputs), blocks)
    moments = [(x[:, p].T @ x[:, p] / tokens).astype(np.float32) for p in parts]
    return Linear('layer', weight, moments), x


def error(linear, values, x):
    return np.linalg.norm(x @ (values - linear.weight)) / np.linalg.norm(x @ linear.weight)


@pytest.mark.parametrize('name', sorted(QUANTISERS))
@settings(max_examples=12, deadline=None)
@given(bits=st.integers(2, 8), shared=st.sampled_from(SHARED), inputs=st.integers(1, 40),
       outputs=st.integers(1, 140), blocks=st.integers(0, 3), seed=st.integers(0, 99))
def test_what_comes_out_is_on_the_grid(name, bits, shared, inputs, outputs, blocks, seed):
    grid = Grid(bits, shared)
    linear, _ = layer(seed, inputs, outputs, 60, min(max(1, blocks), inputs))
    if not blocks:
        linear.moments = []
    linear.weight[seed % inputs] = 0
    integers, scales = make(QUANTISERS, 'quantiser', name, QUICK.get(name, {})).quantise(
        linear, grid)
    assert integers.dtype == np.int8 and integers.shape == linear.weight.shape
    assert grid.least <= integers.min() and integers.max() <= grid.largest
    assert scales.shape == (inputs, -(-outputs // grid.format.group))
    packed = grid.format.pack(integers, scales)  # refuses scales that are none of bfloat16's
    again = grid.format.unpack(packed, outputs)
    np.testing.assert_array_equal(again[0], integers)
    np.testing.assert_array_equal(grid.values(*again), grid.values(integers, scales))
    distinct = {'tensor': scales.size and 1, 'row': inputs}.get(shared)
    if distinct:
        assert len({tuple(sorted(set(row))) for row in scales.tolist()}) <= distinct
        assert all(len(set(row)) == 1 for row in scales.tolist())


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(2, 8), shared=st.sampled_from(SHARED), seed=st.integers(0, 99))
def test_nearest_is_within_half_a_step(bits, shared, seed):
    """Nothing is clipped by more than the step that the largest positive value lacks."""
    linear, _ = layer(seed, 20, 75)
    grid = Grid(bits, shared)
    integers, scales = QUANTISERS['minmax']().quantise(linear, grid)
    step = np.abs(grid.each(scales, 75))
    off = np.abs(grid.values(integers, scales) - linear.weight)
    clipped = integers == grid.largest
    assert (off[~clipped] <= 0.5001 * step[~clipped]).all()
    assert (off[clipped] <= 1.0001 * step[clipped]).all()


def test_each_is_better_at_what_it_is_for():
    grid, found = Grid(3, 32), {}
    for seed in range(4):
        linear, x = layer(seed, 64, 96)
        for name in QUANTISERS:
            made = make(QUANTISERS, 'quantiser', name, {})
            values = grid.values(*made.quantise(linear, grid))
            found.setdefault(name, []).append((error(linear, values, x),
                                               np.square(values - linear.weight).sum()))
    outputs = {name: np.mean([one[0] for one in all_]) for name, all_ in found.items()}
    weights = {name: np.mean([one[1] for one in all_]) for name, all_ in found.items()}
    assert weights['mse'] < weights['minmax']
    assert outputs['feedback'] < 0.7 * outputs['mse']
    assert outputs['lsq'] < outputs['mse']
    assert outputs['adaround'] < outputs['mse']


def test_feedback_against_a_plain_reference():
    """Row by row with the textbook's update (GPTQ's equations 2 and 3), in float64."""
    linear, _ = layer(5, 150, 33)  # more than a block of rows
    grid = Grid(4, 'row')
    made = QUANTISERS['feedback'](scales='minmax')
    integers, scales = made.quantise(linear, grid)
    moments = linear.moments[0].astype(np.float64)
    moments += np.eye(150) * 0.01 * np.diagonal(moments).mean()
    left, order = linear.weight.astype(np.float64), np.argsort(-np.diagonal(linear.moments[0]))
    inverse, todo = np.linalg.inv(moments), list(order)
    disagree = 0
    while todo:
        row = todo.pop(0)
        scale = QUANTISERS['minmax']().scales(left[row:row + 1].astype(np.float32), grid)
        mine = grid.round(left[row:row + 1].astype(np.float32), scale)
        disagree += int((mine[0] != integers[row]).sum())
        np.testing.assert_allclose(scale[0], scales[row], rtol=0.01)
        off = left[row] - grid.values(integers[row:row + 1], scales[row:row + 1])[0]
        left[todo] -= np.outer(inverse[todo, row] / inverse[row, row], off)
        inverse -= np.outer(inverse[:, row], inverse[row]) / inverse[row, row]
    assert disagree <= 0.01 * integers.size  # ties and roundings of float32


def test_feedback_survives_inputs_that_never_come():
    linear, _ = layer(1, 20, 40)
    linear.moments[0][3] = linear.moments[0][:, 3] = 0
    integers, scales = QUANTISERS['feedback']().quantise(linear, Grid(4, 32))
    assert np.isfinite(Grid(4, 32).values(integers, scales)).all()
    factor = inverse_factor(np.zeros((5, 5), np.float32), 0.01)
    assert np.isfinite(factor).all()


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(PRUNERS)), inputs=st.integers(2, 60),
       outputs=st.integers(1, 40), seed=st.integers(0, 50))
def test_pruners_keep_what_counts(name, inputs, outputs, seed):
    linear, _ = layer(seed, inputs, outputs, 60)
    kept = make(PRUNERS, 'pruner', name, {}).keep(linear)
    assert kept.shape == linear.weight.shape and kept.dtype == bool
    score = np.abs(linear.weight) * linear.importance()[:, None]
    if name == 'n:m':
        for first in range(0, inputs, 4):
            block, stays = score[first:first + 4], kept[first:first + 4]
            assert (stays.sum(axis=0) == min(2, len(block))).all()
            for column in range(outputs):
                out = block[~stays[:, column], column]
                assert not len(out) or out.max() <= block[stays[:, column], column].min()
    elif name == 'magnitude':
        assert ((~kept).sum(axis=0) == round(0.5 * inputs)).all()
        for column in range(outputs):
            out = score[~kept[:, column], column]
            assert not len(out) or out.max() <= score[kept[:, column], column].min()
    else:
        rows = kept.any(axis=1)
        assert (kept == rows[:, None]).all() and rows.sum() == inputs - round(0.5 * inputs)


def test_what_is_left_makes_up_for_pruned_weights():
    found = {'mse': [], 'feedback': []}
    for seed in range(6):
        linear, x = layer(seed, 64, 96)
        grid, whole = Grid(8, 32), linear.weight
        linear.kept = PRUNERS['rows'](0.3).keep(linear)
        linear.unpruned, linear.weight = whole, np.where(linear.kept, whole, 0)
        made = {name: grid.values(*QUANTISERS[name]().quantise(linear, grid)) for name in found}
        linear.weight = whole
        for name, values in made.items():
            found[name].append(error(linear, np.where(linear.kept, values, 0), x))
    assert np.mean(found['feedback']) < 0.8 * np.mean(found['mse'])


@pytest.mark.parametrize('bits, shared', [(1, 32), (9, 32), (4, 31), (4, 'all'), (4, 256)])
def test_grids_that_are_none(bits, shared):
    with pytest.raises(ValueError, match='bits|group'):
        Grid(bits, shared)
