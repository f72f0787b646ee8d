# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is computed in, by what a processor is fast in; answers in either."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.engine import rows
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.prepare.convert import convert


@pytest.fixture
def vectors(monkeypatch):
    """Let the processor have these vector instructions."""
    def have(name):
        rows.bfloat16_is_fast.cache_clear()
        monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: name)
    yield have
    rows.bfloat16_is_fast.cache_clear()


@pytest.mark.parametrize('name, fast', [('AVX2', torch.float32), ('AVX512', torch.bfloat16)])
def test_the_type_that_is_computed_in(vectors, name, fast):
    vectors(name)
    assert rows.compute_dtype('bfloat16', 'cpu') == rows.compute_dtype('float16', 'cpu') == fast
    assert rows.compute_dtype('float32', 'cpu') == torch.float32
    assert rows.compute_dtype('float16', 'cuda') == torch.float16
    assert rows.held_dtype('bfloat16', fast) == torch.bfloat16
    assert rows.held_dtype('float32', torch.bfloat16) == torch.bfloat16


def test_elsewhere_it_is_tried(vectors, monkeypatch):
    for seconds, fast in ((1.0, True), (9.0, False)):
        vectors('DEFAULT')
        monkeypatch.setattr(rows, '_seconds', lambda dtype, seconds=seconds: (
            seconds if dtype == torch.bfloat16 else 1.0))
        assert rows.bfloat16_is_fast() is fast


@pytest.mark.parametrize('family', ['tiny-llava-onevision', 'tiny-qwen2-vl'])
@pytest.mark.parametrize('stored', ['bfloat16', 'float16'])
@pytest.mark.parametrize('name, allowed', [('AVX2', 0.02), ('AVX512', 0.06)])
def test_answers_in_either(tiny_models, tmp_path, vectors, family, stored, name, allowed):
    """Against plain float32 over the very weights that are stored; heads and pieces included."""
    vectors(name)
    bundle = convert(tiny_models[family], tmp_path / 'bundle', stored).path
    plain = AutoModelForImageTextToText.from_pretrained(
        tiny_models[family], dtype=getattr(torch, stored)).float().eval()
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    with Session.open(bundle, head_mb=0.1, piece_mb=0.03, drafts=False) as session:
        assert bool(session.notes) == (name == 'AVX2' or stored == 'float16')
        seen = []
        session._model.lm_head.register_forward_hook(
            lambda module, args, out: seen.append(out[-1].float()))
        for _ in range(2):  # the first fills the heads
            session.ask('what is there?', [picture], max_new_tokens=1)
        inputs = {name: value.float() if value.is_floating_point() else value
                  for name, value in session.prepare('what is there?', [picture]).items()}
        with torch.inference_mode():
            want = plain(**inputs).logits[0, -1]
        for got in seen:
            assert (got - want).abs().max() <= allowed * (1 + want.abs().max())
