# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Compressed bundles: what a recipe says is what lies on flash, and it answers."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.compress import algorithms_of
from neuron_chunk_ros.compress import recipe as recipes
from neuron_chunk_ros.compress.bundles import LARGEST_BLOCK, Moments, compress
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import BundleError, RecipeError, RequestError
from neuron_chunk_ros.prepare.calibrate import calibrate
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.rewrite import rewrite
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.verify import verify

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')


def samples(count=4):
    rng = np.random.default_rng(0)
    return [(f'what is {number}?', [rng.integers(0, 256, (56, 56, 3), np.uint8)])
            for number in range(count)]


def parse(layers, **more):
    return recipes.parse(json.dumps({'name': 'x', 'layers': layers, **more}))


def stored(bundle, group):
    return np.fromfile(bundle.path / group.file, group.format.storage,
                       group.nbytes // group.format.item_bytes, offset=group.offset
                       ).reshape(group.rows, -1)


def values(bundle, group):
    raw = stored(bundle, group)
    if group.format.packed:
        return group.format.unpack_rows(raw, group.widths)
    return group.format.unpack(raw)


@pytest.mark.parametrize('family', FAMILIES)
def test_plain_rounding_is_converts(tiny_models, tmp_path, family):
    """A recipe that rounds to nearest, of a folder and of a bundle, writes what convert writes."""
    recipe = parse([{'match': 'lm_head', 'weights': {'bits': 8, 'group': 256,
                                                     'quantiser': 'minmax'}},
                    {'weights': {'bits': 4, 'group': 32, 'quantiser': 'mse'}}])
    want = convert(tiny_models[family], tmp_path / 'want', 'bfloat16', rows='int4')
    plain = convert(tiny_models[family], tmp_path / 'plain', 'bfloat16')
    bundle, report = compress(plain.path, tmp_path / 'b', recipe, samples())
    assert not verify(bundle) and bundle.provenance['recipe'] == 'x'
    assert bundle.dtype == want.dtype and bundle.resident_checksum == want.resident_checksum
    for name, group in want.stored.items():
        np.testing.assert_array_equal(stored(bundle, bundle.stored[name]), stored(want, group))
    assert report.tokens > 100 and [g.name for g in report.groups] == list(want.multiplied)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['b', 'plain', 'want']


@pytest.mark.parametrize('how', ['minmax', {'name': 'feedback', 'scales': 'minmax', 'parts': 3}])
def test_rows_in_two_parts(tiny_models, tmp_path, how):
    """Bases by the recipe; what refines them comes as near to the weights as bases leave it."""
    recipe = parse([{'match': '*down_proj', 'weights': {'bits': 6, 'base': 3, 'quantiser': how}},
                    {'weights': {'bits': 8, 'base': 4, 'quantiser': how}}])
    model = tiny_models['tiny-qwen2-vl']
    bundle, report = compress(model, tmp_path / 'b', recipe, samples())
    assert not verify(bundle) and bundle.rows == 'mixed'
    assert set(bundle.bases) == {*bundle.multiplied, 'embedding'}
    if how == 'minmax':  # is what convert writes
        want = convert(model, tmp_path / 'want', rows='int8', base=4)
        for name, group in want.stored.items():
            if 'down' not in name:
                # A value between two integers may fall to either side.
                mine = stored(bundle, bundle.stored[name])
                assert (mine != stored(want, group)).mean() < 1e-3, name
    plain = AutoModelForImageTextToText.from_pretrained(model)
    errors = {group.name: group.error for group in report.groups}
    for group in bundle.groups.values():
        split = group.split
        assert split.name == ('int3-16+3' if group.name.endswith('down') else 'int4-16+4')
        was = torch.cat([plain.get_submodule(member.name).weight.detach()
                         for member in group.members]).T.numpy()
        base, low = stored(bundle, group.base), stored(bundle, group)
        coarse = group.base.format.unpack_rows(base, group.widths)
        off = [np.abs(found - was).mean() for found in (
            coarse, split.unpack_rows(base, low, group.widths))]
        assert off[1] < off[0] / (2 ** split.refinement.bits / 2.5 if how == 'minmax' else 3)
        assert errors[group.name] < 0.12
    with Session.open(bundle.path) as session:
        assert session.ask(*samples(1)[0], max_new_tokens=5).tokens


@pytest.mark.parametrize('family', FAMILIES)
def test_the_report_is_true(tiny_models, tmp_path, family):
    """Errors are those of the outputs that transformers' own layers would have had."""
    recipe = parse([{'match': '*down_proj', 'weights': {'bits': 3, 'quantiser': 'feedback'}},
                    {'match': '*o_proj', 'weights': {'bits': 5, 'group': 'row'},
                     'pruner': {'name': 'magnitude', 'share': 0.25}}])
    bundle, report = compress(tiny_models[family], tmp_path / 'b', recipe, samples())
    by_name = {group.name: group for group in report.groups}
    assert bundle.rows == 'mixed' and bundle.groups['layers.0.down'].dtype == 'int4'
    assert bundle.groups['layers.0.o'].dtype == 'int8'
    model = AutoModelForImageTextToText.from_pretrained(tiny_models[family])
    for group in bundle.multiplied.values():
        told = by_name[group.name]
        assert (told.nbytes, told.rows) == (group.nbytes, group.rows)
        if group.name.endswith(('.qkv', '.gate_up')) or group.name == 'lm_head':
            assert told.bits == 0 and told.error == 0 and group.dtype == 'float32'
            continue
        assert told.bits == (3 if group.name.endswith('down') else 5)
        was = model.get_submodule(group.members[0].name).weight.detach().T.numpy()
        now = values(bundle, group)
        assert told.weights_zero == pytest.approx((now == 0).mean())
        if group.name.endswith('.o'):
            assert ((now == 0).sum(axis=0) >= round(0.25 * group.rows)).all()
        assert 0.005 < told.error < 0.6
        if group.name == 'layers.0.o':  # its inputs are the model's own
            seen = []
            hook = model.get_submodule(group.members[0].name).register_forward_hook(
                lambda module, args, out, seen=seen: seen.append(args[0].flatten(0, 1)))
            with Session.open(tiny_models_bundle(tiny_models[family], tmp_path)) as session, \
                    torch.inference_mode():
                for prompt, images in samples():
                    model(**session.prepare(prompt, images))
            hook.remove()
            x = torch.cat(seen).numpy()
            want = np.linalg.norm(x @ (now - was)) / np.linalg.norm(x @ was)
            assert told.error == pytest.approx(want, rel=1e-3)


def tiny_models_bundle(model, tmp_path):
    return convert(model, tmp_path / 'plain').path


@pytest.mark.parametrize('family', FAMILIES)
def test_a_compressed_bundle_is_like_any_other(tiny_models, tmp_path, family):
    """It answers, is calibrated, rewritten and verified."""
    bundle, _ = compress(tiny_models[family], tmp_path / 'b', recipes.load('int4'), samples())
    calibrate(bundle.path, samples(2))
    there = rewrite(bundle.path, tmp_path / 'there', 'hot-cold')
    assert not verify(there) and there.rows == 'int4'
    question = samples(1)[0]
    with Session.open(bundle.path) as one, Session.open(there.path) as two:
        first, second = (s.ask(*question, max_new_tokens=5) for s in (one, two))
    assert first.text == second.text
    assert second.confidence == pytest.approx(first.confidence, rel=1e-3)
    with Session.open(there.path, policy='optimal', sparsity=0.5) as session:
        stream = session.stream(window=2)
        stream.append(question[1][0])
        assert stream.ask('what?', max_new_tokens=3).tokens == 3


def test_moments_are_those_of_the_inputs():
    x = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    moments = Moments(20)
    for part in np.array_split(x, 3):
        moments.add(torch.from_numpy(part))
    np.testing.assert_allclose(moments.mean()[0], x.T @ x / 50, rtol=1e-4)
    # Wide inputs are looked at in blocks that together stay small.
    for rows in (LARGEST_BLOCK, 2 * LARGEST_BLOCK + 5, 18944):
        blocks = [len(block) for block in Moments(rows).mean()]
        assert sum(blocks) == rows and max(blocks) - min(blocks) <= 1
        assert sum(block ** 2 for block in blocks) <= 41 << 20


def test_rules_that_contradict_each_other(tiny_models, tmp_path):
    recipe = parse([{'match': '*q_proj', 'weights': {'bits': 8}}, {'weights': {'bits': 4}}])
    with pytest.raises(RecipeError, match='q_proj, k_proj, v_proj of layers.0.qkv .*separate'):
        compress(tiny_models['tiny-qwen2-vl'], tmp_path / 'b', recipe, samples())
    separate = convert(tiny_models['tiny-qwen2-vl'], tmp_path / 'separate', layout='separate')
    bundle, _ = compress(separate.path, tmp_path / 'b', recipe, samples())
    assert bundle.groups['layers.0.q'].dtype == 'int8-32'
    assert bundle.groups['layers.0.k'].dtype == 'int4'
    with pytest.raises(BundleError, match='would hold rows of int4 and int8-32'):
        rewrite(bundle.path, tmp_path / 'c', layout='bundled')


def test_what_can_not_be_compressed(tiny_models, tmp_path):
    recipe, model = recipes.load('int8'), tiny_models['tiny-qwen2-vl']
    bundle, _ = compress(model, tmp_path / 'b', recipe, samples())
    with pytest.raises(BundleError, match='its rows, plain'):
        compress(bundle.path, tmp_path / 'c', recipe, samples())
    head = convert(model, tmp_path / 'head', lm_head='int8')
    with pytest.raises(BundleError, match='a packed LM head'):
        compress(head.path, tmp_path / 'c', recipe, samples())
    shutil.rmtree(head.path)
    with pytest.raises(BundleError, match='exists'):
        compress(model, tmp_path / 'b', recipe, samples())
    with pytest.raises(RequestError, match='at least one sample'):
        compress(model, tmp_path / 'c', recipe, [])

    def stop(share):
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(model, tmp_path / 'c', recipe, samples(), progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ['b']


OWN = '''
import numpy as np
from neuron_chunk_ros.compress import Quantiser, quantiser

@quantiser('{name}')
class Mine(Quantiser):
    def {method}
'''


@pytest.fixture
def own(tmp_path):
    def write(method):
        (tmp_path / 'own.py').write_text(OWN.format(name='mine', method=method))
        (tmp_path / 'r.yaml').write_text(
            'name: r\nlayers:\n  - weights: {bits: 4, quantiser: mine}\n')
        return tmp_path
    return write


def run(capsys, folder, *more):
    (folder / 'pictures').mkdir(exist_ok=True)
    Image.fromarray(np.zeros((56, 56, 3), np.uint8)).save(folder / 'pictures' / 'a.png')
    arguments = ['compress', folder / 'model', folder / 'out', '--recipe', folder / 'r.yaml',
                 '--images', folder / 'pictures', '--algorithms', folder / 'own.py', *more]
    return main([str(argument) for argument in arguments]), *capsys.readouterr()


def test_an_algorithm_of_ones_own_from_the_command_line(tiny_models, own, capsys):
    folder = own('ends(self, values, grid):\n        return np.abs(values).max(axis=1)')
    shutil.copytree(tiny_models['tiny-qwen2-vl'], folder / 'model')
    code, out, err = run(capsys, folder, '--report', folder / 'report.json', '--samples', '3')
    assert code == 0, err
    assert 'lm_head' in out and 'rows of int4' in out
    groups = json.loads((folder / 'report.json').read_text())['groups']
    assert {group['bits'] for group in groups} == {4}
    bundle = Bundle.open(folder / 'out')
    group = bundle.groups['layers.1.down']
    integers, _ = group.format.unpack(stored(bundle, group), group.columns)
    # The end always stands for the least integer, of whatever sign the values are.
    assert integers.min() == -8 and integers.max() == 7


@pytest.mark.parametrize('method, words', [
    ('quantise(self, linear, grid):\n        return linear.weight, None', 'want int8'),
    ('quantise(self, linear, grid):\n        i, s = super().quantise(linear, grid)\n'
     '        return i * 16, s', 'integers of .* 4 bits hold -8 to 7'),
    ('quantise(self, linear, grid):\n        i, s = super().quantise(linear, grid)\n'
     '        return i, s * np.float32("nan")', 'not finite')])
def test_what_fits_no_grid_is_refused(tiny_models, own, method, words):
    folder = own(method)
    with algorithms_of([folder / 'own.py']), \
            pytest.raises(RecipeError, match=f'^quantiser mine: .*{words}'):
        compress(tiny_models['tiny-qwen2-vl'], folder / 'out', recipes.load(folder / 'r.yaml'),
                 samples(1))
    assert not (folder / 'out').exists()


@pytest.mark.parametrize('family', FAMILIES)
def test_pruned_rows_are_never_read(tiny_models, tmp_path, family):
    """A bundle without them answers as one that has them as zeros; in any order and layout."""
    model = tiny_models[family]
    layers = [{'match': '*self_attn*'}, {'match': 'model.*', 'pruner': {
        'name': 'rows', 'share': 0.3}}]
    pruned, report = compress(model, tmp_path / 'pruned', parse(layers), samples())
    plain = convert(model, tmp_path / 'plain')
    told = {group.name: group for group in report.groups}
    saved = 0
    for name, group in pruned.groups.items():
        if name.endswith(('gate_up', 'down')):
            assert group.in_features == plain.groups[name].rows == group.rows + round(
                0.3 * group.in_features)
            assert told[name].rows_pruned == group.in_features - group.rows > 0
            np.testing.assert_array_equal(stored(pruned, group),
                                          stored(plain, plain.groups[name])[group.kept])
            saved += plain.groups[name].nbytes - group.nbytes
        else:
            assert group.kept is None and told[name].rows_pruned == 0
    assert plain.flash_bytes - pruned.flash_bytes == saved > 0 and pruned.order == 'original'

    reference = AutoModelForImageTextToText.from_pretrained(model).eval()
    for group in pruned.groups.values():
        gone = np.setdiff1d(np.arange(group.in_features), group.permutation) \
            if group.kept is not None else []
        for member in group.members:
            reference.get_submodule(member.name).weight.data[:, gone] = 0
    calibrate(pruned.path, samples(2))
    other = rewrite(pruned.path, tmp_path / 'other', 'hot-cold', 'separate')
    back = rewrite(other.path, tmp_path / 'back', 'original', 'bundled')
    assert not verify(other) and other.order == 'hot-cold'
    for name, group in pruned.groups.items():
        np.testing.assert_array_equal(stored(back, back.groups[name]), stored(pruned, group))
        if group.kept is not None:
            np.testing.assert_array_equal(back.groups[name].kept, group.kept)
    question = samples(1)[0]
    for path in (pruned.path, other.path):
        with Session.open(path, drafts=False) as session:
            seen = []
            session._model.lm_head.register_forward_hook(
                lambda module, args, out, seen=seen: seen.append(out[-1].clone()))
            answer = session.ask(*question, max_new_tokens=3)
            with torch.inference_mode():
                want = reference.generate(
                    **session.prepare(*question), max_new_tokens=3, do_sample=False,
                    output_logits=True, return_dict_in_generate=True).logits
            for got, logits in zip(seen, want, strict=False):
                torch.testing.assert_close(got, logits[0], rtol=1e-4, atol=1e-4)
            assert answer.steps[-1].bytes_used <= pruned.decoder_bytes + 1024


@pytest.mark.parametrize('change, words', [
    ({'of': 3}, 'kept: of'), ({'tensor': 'gone'}, 'no tensor gone'), ({'tensor': '../x'}, 'kept'),
    (None, 'kept')])
def test_kept_channels_that_are_none(tiny_models, tmp_path, change, words):
    layers = [{'match': '*.mlp.*', 'pruner': {'name': 'rows', 'share': 0.3}}]
    pruned, _ = compress(tiny_models['tiny-qwen2-vl'], tmp_path / 'p', parse(layers), samples(1))
    path = pruned.path / 'bundle.json'
    manifest = json.loads(path.read_text())
    group = next(group for group in manifest['groups'] if 'kept' in group)
    if change is None:
        group['kept'] = None
    else:
        group['kept'].update(change)
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=words):
        Bundle.open(pruned.path)
