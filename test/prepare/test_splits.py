# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bits of bases by group: never beyond the memory, and none of it left that would help."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.restore import restore
from neuron_chunk_ros.prepare.splits import choose
from neuron_chunk_ros.storage.layout import GroupPlan, Member
from neuron_chunk_ros.storage.packed_rows import PACKED_FORMATS, REFINEMENTS, Split
from neuron_chunk_ros.storage.verify import verify

SPLITS = [Split(PACKED_FORMATS[f'int{bits}-16'], REFINEMENTS[f'plus{8 - bits}'])
          for bits in (2, 3, 4)]


def size(plan, split):
    return plan.rows * split.base.row_bytes(plan.widths)


@settings(max_examples=100, deadline=None)
@given(shapes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 90)), min_size=1, max_size=6),
       room=st.floats(0, 1.1), seed=st.integers(0, 2 ** 32))
def test_what_is_chosen_fits(shapes, room, seed):
    plans = [GroupPlan(f'g{n}', rows, (Member(f'm{n}', columns),))
             for n, (rows, columns) in enumerate(shapes)]
    rng = np.random.default_rng(seed)
    weights = {plan.name: rng.standard_normal((plan.rows, plan.columns)).astype(np.float32)
               for plan in plans}
    least, most = (sum(size(plan, split) for plan in plans) for split in (SPLITS[0], SPLITS[-1]))
    nbytes = int(least + room * (most - least))
    chosen = choose(plans, SPLITS, lambda plan: weights[plan.name], nbytes)
    left = nbytes - sum(size(plan, chosen[plan.name]) for plan in plans)
    assert left >= 0 and set(chosen) == set(weights)
    for plan in plans:  # nor would any one more bit have fitted
        at = SPLITS.index(chosen[plan.name])
        if at + 1 < len(SPLITS):
            assert size(plan, SPLITS[at + 1]) - size(plan, SPLITS[at]) > left, plan.name
    if room >= 1:
        assert set(chosen.values()) == {SPLITS[-1]}
    with pytest.raises(ModelError, match='--base-mb leaves'):
        choose(plans, SPLITS, lambda plan: weights[plan.name], least - 1)


def test_bits_go_where_they_err_least():
    """Weights that two bits have exactly need no more; those with tails do."""
    plans = [GroupPlan(name, 64, (Member(name, 64),)) for name in ('even', 'tails')]
    rng = np.random.default_rng(0)
    even = rng.choice([-2.0, -1.0, 0.0, 1.0], (64, 64)).astype(np.float32)
    even[:, ::16] = -2
    weights = {'even': even,
               'tails': rng.standard_t(3, (64, 64)).astype(np.float32)}
    nbytes = size(plans[0], SPLITS[0]) + size(plans[1], SPLITS[2])
    chosen = choose(plans, SPLITS, lambda plan: weights[plan.name], nbytes)
    assert chosen['tails'].base.bits > chosen['even'].base.bits


def test_a_bundle_of_mixed_bases(tiny_models, tmp_path):
    model = tiny_models['tiny-llava-onevision']
    whole = convert(model, tmp_path / 'four', rows='int8', base=4).base_bytes
    with pytest.raises(ModelError, match='not both'):
        convert(model, tmp_path / 'b', rows='int8', base=4, base_mb=1)
    with pytest.raises(ModelError, match='rows are int5, int6 or int8'):
        convert(model, tmp_path / 'b', rows='int4', base_mb=1)
    with pytest.raises(ModelError, match='--base-mb leaves'):
        convert(model, tmp_path / 'b', rows='int8', base_mb=0)
    assert convert(model, tmp_path / 'all', rows='int8', base_mb=64).base_bytes == whole
    made = convert(model, tmp_path / 'b', rows='int6', base_mb=1)
    assert not verify(made) and made.base_bytes <= 1 << 20
    picture = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
    plain = restore(made.path)
    with Session.open(made.path) as session:
        inputs = session.prepare('what is it?', [picture])
        got = session.ask('what is it?', [picture], max_new_tokens=6)
        want = plain.generate(**inputs, max_new_tokens=6, do_sample=False)
        assert got.text == session._prompts.tokenizer.decode(
            want[0, inputs['input_ids'].shape[1]:], skip_special_tokens=True).strip()
