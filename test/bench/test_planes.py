# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""bench planes: a decoder in memory multiplies as the engine does from flash."""

import numpy as np
import pytest
import torch

from neuron_chunk_ros.bench.planes.sharing import DENSE, Reading, SharedRows, units_of
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.families import PromptPart
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.restore import restore
from neuron_chunk_ros.published.packing import Packer
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.tabletop.exam import Sheet, frames_of
from neuron_chunk_ros.tabletop.network import answer_logits, vision_features

ASKED = [('what is the red shape?', 'circle'), ('is there not a circle?', 'no it is'),
         ('and now?', 'yes')]


@pytest.fixture(scope='module')
def bundle(tiny_models, tmp_path_factory):
    source = tiny_models['tiny-llava-onevision']
    return convert(source, tmp_path_factory.mktemp('planes') / 'bundle', 'float32', rows='int8',
                   base=4).path


@pytest.fixture(scope='module')
def picture():
    return np.random.default_rng(3).integers(0, 256, (64, 80, 3), np.uint8)


def packed(model, folder, picture):
    packer = Packer(folder, model.config)
    batch = packer([(picture, ASKED)])
    visual = model.config.video_token_id
    tokens = int((batch.ids == visual).sum())
    features = vision_features(model, batch.pixels)
    return packer, Sheet(batch, features, frames_of(batch.ids, visual, tokens), np.zeros(1, int))


def engine_logits(session, packer, picture, words, question, answer):
    """Return the logits behind a question and behind each word of its answer."""
    prompts, (asked, answered) = session._prompts, (question, packer._answer(answer))
    frame = prompts.frame(prompts.encode([picture]), '', 0, '')
    cache, found = session._memory.cache(0), []
    with session._runner.work(None, None, None):
        step = session._runner.step
        at, _, _ = step('prefill', prompts.prefix(), cache, 0)
        at, _, _ = step('append', frame, cache, at)
        if not words:  # an answer's words always choose; here they are to have all rows
            session.configure(sparsity=0.0)
        at, _, logits = step('prefill', prompts.suffix(asked, frame.trail), cache, at, logits=1)
        found.append(logits)
        for token in answered:
            at, _, logits = step('decode', PromptPart(torch.tensor([[token]])), cache, at,
                                 logits=1)
            found.append(logits)
    cache.truncate(0)
    return torch.cat(found)


@pytest.mark.parametrize('words', [False, True])
@pytest.mark.parametrize('share', [0.1, 0.3, 1.0])
def test_rows_shared_in_memory_are_rows_shared_from_flash(bundle, tiny_models, picture, words,
                                                          share):
    model = restore(bundle)
    rough = restore(bundle, coarse=True)
    opened = Bundle.open(bundle)
    groups = list(opened.groups.values())
    coarse = {member.name: rough.get_submodule(member.name).weight
              for group in groups for member in group.members}
    with torch.inference_mode(), SharedRows(model, groups, coarse, {}) as rows:
        orders = {group.name: np.arange(group.rows) for group in groups}
        rows._orders = orders
        rows.reading = Reading(share, coarse=True)
        packer, sheet = packed(model, tiny_models['tiny-llava-onevision'], picture)
        rows.enter(units_of(sheet, words))
        got, _, _ = answer_logits(model, sheet.batch, sheet.features)
    want = []
    with Session.open(bundle, policy='topk', drafts=False, head_mb=0) as session:
        for one in ASKED:
            session.configure(sparsity=1 - share, text_sparsity=1 - share if words else 0.0)
            want.append(engine_logits(session, packer, picture, words, *one))
    want = torch.cat(want)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=2e-3, atol=2e-3)
    if share < 1:
        plain = restore(bundle)
        with torch.inference_mode():
            dense, _, _ = answer_logits(plain, sheet.batch, sheet.features)
        assert (dense - got).abs().max() > 0.02, 'choosing changed nothing'


def test_rows_left_out_and_held_are_those_of_the_masks(tiny_models, bundle):
    """Against each unit alone, its rows picked by sorting."""
    model = restore(bundle)
    group = next(iter(Bundle.open(bundle).groups.values()))
    order = np.random.default_rng(0).permutation(group.rows)
    x = torch.randn(2, 7, group.rows)
    units = torch.tensor([[DENSE, 4, 4, 9, 9, 9, DENSE], [2, 2, 2, 2, DENSE, 7, 7]])
    with SharedRows(model, [group], {}, {group.name: order}) as rows:
        rows.reading = Reading(0.25, held=0.5)
        rows.enter(units)
        linear = model.get_submodule(group.members[0].name)
        got = linear(x)
    held = order[:group.rows // 2]
    for unit in set(units.flatten().tolist()):
        mine = units == unit
        kept = np.ones(group.rows, bool)
        if unit != DENSE:
            importance = x[mine].abs().mean(0).numpy().copy()
            importance[held] = np.inf
            kept[np.argsort(importance)[:group.rows - group.rows // 2 - group.rows // 8]] = False
        want = torch.nn.functional.linear(x[mine] * torch.from_numpy(kept), linear.weight,
                                          linear.bias)
        torch.testing.assert_close(got[mine], want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(linear(x), torch.nn.functional.linear(x, linear.weight,
                                                                     linear.bias))
