# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration against plain transformers: importance, trial errors and TEAL's tables."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.chunking import teal
from neuron_chunk_ros.chunking.budgets import Budgets
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import BundleError, RequestError
from neuron_chunk_ros.prepare.calibrate import calibrate, record_importance
from neuron_chunk_ros.prepare.layer_walk import Walk
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.calibration import unpack
from neuron_chunk_ros.storage.safetensors_header import read_header
from neuron_chunk_ros.storage.verify import verify

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')
PROJECTIONS = {'qkv': ('self_attn', ('q_proj', 'k_proj', 'v_proj')),
               'o': ('self_attn', ('o_proj',)), 'gate_up': ('mlp', ('gate_proj', 'up_proj')),
               'down': ('mlp', ('down_proj',))}


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    """Tiny products gain nothing from threads, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def some_samples(seed=0):
    """Two questions of equal and one of another length, one with two pictures."""
    rng = np.random.default_rng(seed)
    shown = [rng.integers(0, 256, (90, 120, 3), np.uint8) for _ in range(4)]
    return [('what is it?', shown[:1]), ('how many?', shown[1:2]), ('where is it?', shown[2:]),
            ('what is he?', shown[3:])]


@pytest.fixture
def bundle(tiny_bundles, tmp_path):
    return Path(shutil.copytree(tiny_bundles['tiny-llava-onevision'], tmp_path / 'bundle'))


class Plain:
    """Plain transformers with hooks that record or mask the inputs of the linear layers."""

    def __init__(self, folder, bundle):
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.layers = self.model.model.language_model.layers
        self.inputs, self.mask, self.outputs, self.calls = {}, None, {}, {}
        for number, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(
                lambda _, args, kwargs, n=number: self.calls.__setitem__(n, (args, kwargs)),
                with_kwargs=True)
            layer.register_forward_hook(
                lambda _, args, out, n=number: self.outputs.__setitem__(n, out))
            for name, (part, members) in PROJECTIONS.items():
                for member in members:
                    module = getattr(getattr(layer, part), member)
                    module.register_forward_pre_hook(
                        lambda _, args, key=f'layers.{number}.{name}': self.seen(key, args[0]))
        with Session.open(bundle) as session:
            self.prepared = [session.prepare(*sample) for sample in some_samples()]
            self.visual = [torch.isin(one['input_ids'][0], torch.tensor(
                session._prompts.visual_ids)) for one in self.prepared]

    def seen(self, key, x):
        self.inputs[key] = x
        return (x if self.mask is None else self.mask(key, x),)

    @torch.inference_mode()
    def run(self, sample):
        self.mask = None
        self.model(**self.prepared[sample], use_cache=False)

    def importance(self, sample, kind, x):
        tokens = self.visual[sample] if kind == 'visual' else ~self.visual[sample]
        return tokens, x[0, tokens].abs().mean(dim=0)

    @torch.inference_mode()
    def error(self, layer, kind, sparsity):
        """Return the squared error of a layer's output over all samples, by short group names."""
        total = 0.0
        for sample in range(len(self.prepared)):
            self.run(sample)
            args, kwargs = self.calls[layer]
            dense = self.outputs[layer]

            def mask(key, x, sample=sample):
                skipped = sparsity.get(key.split('.')[-1], 0.0)
                tokens, importance = self.importance(sample, kind, x)
                kept = max(1, round(len(importance) * (1 - skipped)))
                order = torch.sort(importance, descending=True, stable=True).indices
                masked = x.clone()
                masked[0, tokens[:, None] & torch.isin(torch.arange(x.shape[2]),
                                                       order[kept:])] = 0
                return masked

            self.mask = mask
            out = self.layers[layer](*args, **kwargs)
            total += float((out - dense).double().square().sum())
        return total


@pytest.fixture(scope='module')
def plain(tiny_models, tiny_bundles):
    return {name: Plain(tiny_models[name], tiny_bundles[name]) for name in FAMILIES}


@pytest.mark.parametrize('family', FAMILIES)
def test_importance_is_the_mean_magnitude_by_kind(plain, tiny_bundles, family):
    found = record_importance(tiny_bundles[family], some_samples())
    assert list(found) == list(Bundle.open(tiny_bundles[family]).groups)
    for sample in range(4):
        plain[family].run(sample)
        for name, kinds in found.items():
            for kind in ('visual', 'text'):
                _, want = plain[family].importance(sample, kind, plain[family].inputs[name])
                np.testing.assert_allclose(kinds[kind][sample], want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('kind', ['visual', 'text'])
def test_trials_err_as_masked_transformers_does(plain, tiny_bundles, family, kind):
    """Also a trial that starts from others: what is kept from them must not show."""
    trials = [{}, {'down': 0.5}, {'down': 0.5, 'qkv': 0.3}, {'down': 0.7, 'qkv': 0.3, 'o': 0.2},
              {'qkv': 0.9, 'o': 0.9, 'gate_up': 0.9, 'down': 0.9}, {'gate_up': 0.4}, {'o': 0.01}]
    with Walk(Bundle.open(tiny_bundles[family])) as walk:
        for number, layer in enumerate(walk.run(some_samples())):
            if number != 1:
                continue
            layer.start(kind)
            for settled, trial in enumerate(trials):
                want = plain[family].error(1, kind, trial)
                got = layer.error({f'layers.1.{name}': s for name, s in trial.items()})
                assert got == pytest.approx(want, rel=1e-3, abs=1e-6)
                if settled % 2:
                    layer.settle({f'layers.1.{name}': s for name, s in trial.items()})


@pytest.mark.parametrize('family', FAMILIES)
def test_tables_equal_brute_force(plain, tiny_bundles, family):
    """TEAL on a small random block: the walk's errors against plain transformers', few steps."""
    kind, coarse = 'visual', {'step': 0.2, 'largest': 0.4, 'lazy': False}
    groups = Bundle.open(tiny_bundles[family]).groups
    parameters = {name: groups[f'layers.0.{name}'].rows * groups[f'layers.0.{name}'].columns
                  for name in PROJECTIONS}
    want = teal.allocate(parameters, lambda s: plain[family].error(0, kind, s), **coarse)
    with Walk(Bundle.open(tiny_bundles[family])) as walk:
        layer = next(walk.run(some_samples()))
        layer.start(kind)
        got = teal.allocate({f'layers.0.{name}': n for name, n in parameters.items()},
                            layer.error, raised=lambda s, _: layer.settle(s), **coarse)
    for name in PROJECTIONS:
        np.testing.assert_allclose(got[f'layers.0.{name}'], want[name], atol=1e-9)


@pytest.mark.parametrize('layout', [
    'bundled', pytest.param('separate', marks=pytest.mark.slow)])
def test_what_is_stored(tiny_models, tmp_path, layout):
    from neuron_chunk_ros.prepare.convert import convert
    path = convert(tiny_models['tiny-qwen2-vl'], tmp_path / 'b', layout=layout).path
    before = Bundle.open(path)
    seen = []
    returned = calibrate(path, some_samples(), about={'who': 'test'},
                         progress=lambda done, total: seen.append((done, total)))
    bundle = Bundle.open(path)
    assert bundle.calibration == returned and returned['samples'] == 4
    assert returned['about']['who'] == 'test' and bundle.layout == layout
    assert list(bundle.groups.values()) == list(before.groups.values())
    assert verify(bundle) == []
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1] and seen == sorted(seen)
    importance = record_importance(path, some_samples())
    file = path / returned['neurons']['file']
    arrays = unpack(file, read_header(file, BundleError))
    budgets = Budgets.from_calibration(returned)
    for layer in range(3):
        groups = [g for g in bundle.groups.values() if g.name.startswith(f'layers.{layer}.')]
        for kind in ('visual', 'text'):
            for group in groups:
                mine = importance[group.name][kind]
                counts = sum(np.isin(np.arange(group.rows), np.argsort(-row, kind='stable')[
                    :round(group.rows / 2)]).astype(int) for row in mine)
                assert arrays[f'{group.name}.{kind}.count'].tolist() == counts.tolist()
                np.testing.assert_allclose(arrays[f'{group.name}.{kind}.importance'],
                                           mine.mean(axis=0), rtol=1e-6)
                table = returned['groups'][group.name][kind]
                assert table['variation'] == pytest.approx(
                    float((mine.std(axis=1) / mine.mean(axis=1)).mean()), rel=1e-4)
                assert 0 < table['sensitivity'] < 1
            weights = [group.rows * group.columns for group in groups]
            for wanted in (0.2, 0.5, 0.72):
                mean = np.average([budgets.sparsity(g.name, kind, wanted) for g in groups],
                                  weights=weights)
                assert mean == pytest.approx(wanted, abs=2e-6)


def test_sensitivity_is_the_error_of_half_a_group(plain, bundle):
    stored = calibrate(bundle, some_samples())
    norm = 0.0
    for sample in range(4):
        plain['tiny-llava-onevision'].run(sample)
        norm += float(plain['tiny-llava-onevision'].outputs[0].double().square().sum())
    for name in PROJECTIONS:
        error = plain['tiny-llava-onevision'].error(0, 'text', {name: 0.5})
        assert stored['groups'][f'layers.0.{name}']['text']['sensitivity'] == pytest.approx(
            (error / norm) ** 0.5, rel=1e-3)


def test_calibrating_again_replaces_and_leaves_one_file(bundle):
    first = calibrate(bundle, some_samples(1)[:1])
    names = {path.name for path in bundle.iterdir()} - {first['neurons']['file']}
    for left in ('.bundle.json.partial-0123abcd', 'calibration-0123456789abcdef.safetensors',
                 f'.{first["neurons"]["file"]}.partial-89abcdef'):
        (bundle / left).write_bytes(b'what a killed calibration leaves')
    second = calibrate(bundle, some_samples(2)[:1])
    assert first['neurons'] != second['neurons']
    assert {path.name for path in bundle.iterdir()} == names | {second['neurons']['file']}
    assert Bundle.open(bundle).calibration == second
    text = (bundle / 'bundle.json').read_text()
    assert calibrate(bundle, some_samples(2)[:1]) == second
    assert (bundle / 'bundle.json').read_text() == text


def test_a_bundle_of_version_1_becomes_version_2(bundle, older_bundle, tmp_path):
    bundle = older_bundle(bundle, tmp_path / 'older').path
    path = bundle / 'bundle.json'
    manifest = json.loads(path.read_text())
    assert manifest.pop('version') == 2 and manifest.pop('orders') is None
    path.write_text(json.dumps({**manifest, 'version': 1}))
    assert Bundle.open(bundle).order == 'original'
    calibrate(bundle, some_samples()[:1])
    assert json.loads(path.read_text())['version'] == 2
    assert Bundle.open(bundle).calibration['samples'] == 1


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize('samples, words', [
    ([], 'at least one sample'),
    ([('what?', [])], 'sample 0 cannot be used: it needs a prompt and at least one image'),
    ([('fine', [np.zeros((9, 9, 3), np.uint8)]), (' ', [np.zeros((9, 9, 3), np.uint8)])],
     'sample 1 cannot be used')])
def test_bad_samples_leave_the_bundle_as_it_was(bundle, samples, words):
    before = contents(bundle)
    with pytest.raises(RequestError, match=words):
        calibrate(bundle, samples)
    assert contents(bundle) == before


@pytest.mark.parametrize('stop', [KeyboardInterrupt, SystemExit])
def test_stopped_midway_leaves_the_bundle_as_it_was(bundle, stop):
    def halfway(done, total):
        if done > total / 2:
            raise stop

    before = contents(bundle)
    with pytest.raises(stop):
        calibrate(bundle, some_samples()[:1], progress=halfway)
    assert contents(bundle) == before


def test_a_bad_device_is_named(bundle):
    with pytest.raises(RequestError, match="device 'nonsense'"):
        calibrate(bundle, some_samples(), device='nonsense')


def test_sparse_answers_use_the_budgets(bundle):
    """A calibrated session skips the wanted share of the parameters."""
    calibrate(bundle, some_samples()[:1])
    opened = Bundle.open(bundle)
    with Session.open(bundle, policy='topk', sparsity=0.5, text_sparsity=0.5) as session:
        answer = session.ask('what is it?', some_samples()[0][1], max_new_tokens=3)
    decode = answer.steps[1]
    # The LM head is in memory; a word's row may have been read.
    wanted = decode.bytes_used / opened.decoder_bytes
    assert wanted == pytest.approx(0.5, abs=0.02)
