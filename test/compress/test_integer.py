# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Training path and integer path: the same numbers by different arithmetic, whatever the model."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.compress import recipe as recipes
from neuron_chunk_ros.compress.integer import fixed_point
from neuron_chunk_ros.compress.integer.attention import PROBABILITY_BITS, softmax
from neuron_chunk_ros.compress.integer.model import convert
from neuron_chunk_ros.compress.integer.values import Codes, Paths
from neuron_chunk_ros.compress.recipe import FixedPoint
from neuron_chunk_ros.errors import RecipeError
from neuron_chunk_ros.families import prompt_builder
from neuron_chunk_ros.storage.side_files import SideFiles

FAMILIES = {'tiny-llava-onevision': 'llava_onevision', 'tiny-qwen2-vl': 'qwen2_vl'}


def recipe(**changes):
    import json
    made = {'name': 'x', 'fixed_point': {'word': 32, 'fraction': 26}, 'smooth': 0.5, 'layers': [
        {'weights': {'bits': 8, 'group': 'column', 'quantiser': 'minmax'},
         'activations': {'bits': 8}}]}
    return recipes.parse(json.dumps(made | changes))


def inputs_of(folder, model, family, count=3):
    prompts = prompt_builder(family, SideFiles.of_model(folder), model.config)
    rng = np.random.default_rng(0)
    return [prompts.build('what is there?', [rng.integers(0, 256, (56, 84, 3), np.uint8)] * many)
            for many in (1, 2, 1)[:count]]


def all_logits(model, inputs):
    return [model(**one, use_cache=False).logits for one in inputs]


@pytest.fixture(scope='module', params=FAMILIES)
def converted(request, tiny_models):
    folder = tiny_models[request.param]
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    inputs = inputs_of(folder, model, FAMILIES[request.param])
    made = convert(model, recipe(), lambda m: all_logits(m, inputs))
    return made, model, inputs


def test_both_paths_give_the_same_integers(converted):
    """End to end, and in every module: in float64 to the bit; float32 rounds some otherwise."""
    made, model, inputs = converted
    outputs = {}
    for path, dtype in (('train', torch.float64), ('train', torch.float32), ('integer', None)):
        made.paths.dtype = dtype or torch.float64
        seen = outputs.setdefault((path, dtype), {})
        hooks = [module.register_forward_hook(lambda module, args, out, seen=seen, name=name: (
            seen.setdefault(name, []).append(out))) for name, module in made.model.named_modules()
            if name in made.duals]
        with torch.no_grad(), made.on(path) as m:
            seen['logits'] = all_logits(m, inputs)
        for hook in hooks:
            hook.remove()
    made.paths.dtype = torch.float32
    integers = outputs['integer', None]
    compared = 0
    for name, found in outputs['train', torch.float64].items():
        for mine, theirs in zip(found, integers[name], strict=True):
            if isinstance(mine, Codes):
                assert mine.scale == theirs.scale, name
                assert torch.equal(mine.as_subclass(torch.Tensor),
                                   theirs.as_subclass(torch.Tensor)), name
                compared += 1
    assert compared > 100
    assert not made.paths.in_float
    with torch.no_grad():
        want = all_logits(model, inputs)
    # Where float32's roundings fall depends on the processor; they are as good an answer.
    for path in (('integer', None), ('train', torch.float32)):
        for got, logits in zip(outputs[path]['logits'], want, strict=True):
            off = float((got.value - logits).norm() / logits.norm())
            assert off < 0.12, path


def test_integers_are_integers_and_within_their_bits(converted):
    made, _, inputs = converted
    told = []
    made.paths.recording(lambda name, kind, tensors, numbers: told.append(
        (name, kind, tensors, numbers)))
    with torch.no_grad(), made.on('integer') as m:
        all_logits(m, inputs[:1])
    made.paths.recording(None)
    kinds = {kind for _, kind, _, _ in told}
    assert {'product', 'convolution', 'norm', 'attention', 'rescale', 'add', 'multiply'} <= kinds
    for name, kind, tensors, numbers in told:
        for key, tensor in tensors.items():
            assert torch.equal(tensor.double(), tensor.double().round()), (name, key)
        if numbers.get('bits'):
            half = 1 << (numbers['bits'] - 1)
            assert -half <= tensors['output'].min() and tensors['output'].max() < half, name
        if kind == 'product':
            assert tensors['sums'].abs().max() < 1 << (numbers['accumulator_bits'] - 1)
            assert tensors['input'].abs().max() <= 128 and tensors['weight'].abs().max() <= 128
            assert tensors['multiplier'].abs().max() < 1 << 31


def test_norms_are_folded_and_nothing_changes(tiny_models):
    """Before anything is rounded: the model with its norms folded and smoothed is the model."""
    for preset, family in FAMILIES.items():
        folder = tiny_models[preset]
        model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        rng = torch.Generator().manual_seed(0)
        for module in model.modules():  # synthetic models have gains of one
            if hasattr(module, 'variance_epsilon') or isinstance(module, torch.nn.LayerNorm):
                module.weight.data = 1 + 0.5 * torch.rand(module.weight.shape, generator=rng)
                if getattr(module, 'bias', None) is not None:
                    module.bias.data = 0.1 * torch.randn(module.bias.shape, generator=rng)
        inputs = inputs_of(folder, model, family, 1)
        made = convert(model, recipe(), lambda m, inputs=inputs: all_logits(m, inputs))
        assert 'model.language_model.layers.1.input_layernorm' in made.folded
        with torch.no_grad(), made.on('integer') as m:
            got, = all_logits(m, inputs)
        want, = all_logits(model, inputs)
        assert (got.value - want).norm() < 0.15 * want.norm()


def test_a_short_fine_tune_on_the_training_path(converted):
    """Gradients reach every weight, and a few steps bring the loss down on the integer path."""
    import copy
    made, _, inputs = converted
    made = copy.deepcopy(made)
    target = torch.randint(0, 400, (inputs[0]['input_ids'].shape[1],),
                           generator=torch.Generator().manual_seed(0))

    def loss(path):
        with made.on(path) as m:
            return torch.nn.functional.cross_entropy(
                all_logits(m, inputs[:1])[0].value[0].float(), target)

    with torch.no_grad():
        before = loss('integer')
    # Steps of the size of a grid: smaller ones would be rounded away.
    optimizer = torch.optim.Adam(made.model.parameters(), lr=3e-3)
    for step in range(8):
        optimizer.zero_grad()
        found = loss('train')
        found.backward()
        if not step:
            missing = [name for name, p in made.model.named_parameters() if p.grad is None]
            assert not [name for name in missing if 'norm' not in name], missing
        optimizer.step()
    with torch.no_grad():
        after = loss('integer')
    assert after < 0.9 * before, (before, after)


@settings(max_examples=200, deadline=None)
@given(ratio=st.floats(1e-9, 31), code=st.integers(-(1 << 30), 1 << 30),
       fraction=st.integers(8, 26))
def test_multiply_shift_is_the_ratio_rounded(ratio, code, fraction):
    by = fixed_point.multiplier(ratio, FixedPoint(32, fraction), 'x')
    got = int(by(torch.tensor([code]))[0])
    exact = code * int(by.by) / 2 ** by.shift
    assert got == math.floor((code * int(by.by) * 2 + 2 ** by.shift) // 2 ** (by.shift + 1))
    assert abs(got - exact) <= 0.5
    assert abs(exact - code * ratio) <= abs(code * ratio) * 2.0 ** -14


@pytest.mark.parametrize('ratio', [32.0, 1e6])
def test_a_scale_that_no_word_holds(ratio):
    with pytest.raises(RecipeError, match='x: a scale of .* does not fit 32 bits with 26 behind'):
        fixed_point.multiplier(ratio, FixedPoint(32, 26), 'x')


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 1 << 61),
                          st.integers(0, 1 << 30).map(lambda n: n * n),
                          st.integers(1, 1 << 30).map(lambda n: n * n - 1)), min_size=1))
def test_whole_square_roots(values):
    assert fixed_point.whole_sqrt(torch.tensor(values)).tolist() == [math.isqrt(v) for v in values]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(1, 40), spread=st.floats(0.01, 40))
def test_softmax_by_table(seed, size, spread):
    rng = np.random.default_rng(seed)
    real = rng.normal(0, spread, (3, size))
    visible = torch.from_numpy(rng.random((3, size)) < 0.8)
    visible[:, 0] = True
    got = softmax(torch.from_numpy(np.round(real * 4096)).long(), visible)
    want = torch.from_numpy(real).masked_fill(~visible, -torch.inf).softmax(-1)
    assert (got[~visible] == 0).all()
    unit = 2.0 ** -PROBABILITY_BITS
    assert (got * unit - want).abs().max() < 2.0 ** -12 + 2 * unit
    assert (got.sum(-1) - (1 << PROBABILITY_BITS)).abs().max() <= size


def test_what_the_paths_can_not_do_in_integers_is_noted():
    paths = Paths(FixedPoint(), now='integer')
    one = paths.codes(torch.tensor([[3, -4], [5, 6]]), 0.5)
    assert isinstance(one + one, Codes) and (one + one).scale == 0.5
    assert isinstance(one.transpose(0, 1)[0], Codes)
    joined = torch.cat([one, paths.codes(torch.tensor([[8, 8]]), 0.25)])
    assert joined.scale == 0.5 and joined.plain[-1].tolist() == [4, 4]
    product = one * one
    assert product.scale == 0.25 and product.plain[0].tolist() == [9, 16]
    assert not paths.in_float
    found = torch.exp(one)
    assert not isinstance(found, Codes)
    torch.testing.assert_close(found, torch.exp(torch.tensor([[1.5, -2], [2.5, 3]]).double()))
    assert paths.in_float == {'exp': 1}


@pytest.mark.parametrize('changes, words', [
    ({'fixed_point': {'word': 8, 'fraction': 7}}, 'word'),
    ({'layers': [{'match': 'model.language_model.*', 'weights': {'bits': 8, 'group': 'column'},
                  'activations': {'bits': 8}}]}, 'no rule fits model.v'),
    ({'layers': [{'weights': {'bits': 8, 'group': 'column'}, 'activations': {'bits': 16}}]},
     'accumulator'),
    ({'layers': [{'weights': {'bits': 8, 'group': 32}, 'activations': {'bits': 8}}]},
     'group: column or tensor')])
def test_recipes_that_integers_can_not_follow(tiny_models, changes, words):
    folder = tiny_models['tiny-llava-onevision']
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    for name, parameter in model.named_parameters():  # sums that 32 bits don't hold
        if words == 'accumulator' and name.endswith('down_proj.weight'):
            parameter.data = torch.full_like(parameter, 0.1)
            parameter.data[:, 0] = 0.2
    inputs = inputs_of(folder, model, 'llava_onevision', 1)
    if words == 'accumulator':
        made = convert_small(model, changes, inputs)
        with pytest.raises(RecipeError, match='sums of .* may need .* bits, an accumulator has'):
            made()
        return
    with pytest.raises(RecipeError, match=words):
        made = convert(model, recipe(**changes), lambda m: all_logits(m, inputs))
        with torch.no_grad(), made.on('integer') as m:
            all_logits(m, inputs)


def convert_small(model, changes, inputs):
    from neuron_chunk_ros.compress.integer import layers

    def run():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layers, 'ACCUMULATOR_BITS', 28)  # tiny layers have few inputs
            convert(model, recipe(**changes), lambda m: all_logits(m, inputs))
    return run
