# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's weights back in transformers' model, whatever its order, layout and rows."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.compress import recipe as recipes
from neuron_chunk_ros.compress.bundles import compress
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.prepare.calibrate import calibrate
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.restore import restore
from neuron_chunk_ros.prepare.rewrite import rewrite

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')


def samples(count=2):
    rng = np.random.default_rng(0)
    return [('what is there?', [rng.integers(0, 256, (56, 56, 3), np.uint8)])
            for _ in range(count)]


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('layout', [
    'bundled', pytest.param('separate', marks=pytest.mark.slow)])
def test_it_is_the_model(tiny_models, older_bundle, tmp_path, family, layout):
    want = AutoModelForImageTextToText.from_pretrained(tiny_models[family]).state_dict()
    bundle = convert(tiny_models[family], tmp_path / 'plain', layout=layout)
    older = older_bundle(bundle.path, tmp_path / 'older')
    calibrate(bundle.path, samples())
    ordered = rewrite(bundle.path, tmp_path / 'ordered', 'hot-cold')
    for path in (bundle.path, older.path, ordered.path):
        got = restore(path).state_dict()
        assert got.keys() == want.keys()
        for name, tensor in want.items():
            assert torch.equal(got[name], tensor), (path.name, name)


@pytest.mark.parametrize('family', FAMILIES)
def test_packed_and_pruned_rows_answer_as_it_does(tiny_models, tmp_path, family):
    recipe = recipes.parse('name: x\nlayers:\n  - weights: {bits: 4}\n'
                           '    pruner: {name: rows, share: 0.2}\n')
    bundle, _ = compress(tiny_models[family], tmp_path / 'b', recipe, samples())
    calibrate(bundle.path, samples())
    for path in (bundle.path, rewrite(bundle.path, tmp_path / 'o', 'hot-cold').path):
        model = restore(path)
        with Session.open(path, drafts=False) as session, torch.inference_mode():
            seen = []
            session._model.lm_head.register_forward_hook(
                lambda module, args, out, seen=seen: seen.append(out[-1].clone()))
            session.ask(*samples(1)[0], max_new_tokens=1)
            want = model(**session.prepare(*samples(1)[0])).logits[0, -1]
        torch.testing.assert_close(seen[0], want, rtol=1e-4, atol=1e-4)
