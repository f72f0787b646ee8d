# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles of packed rows: they answer as a model of the values that their integers stand for."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.engine import rows as stored_rows
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import BundleError, ModelError
from neuron_chunk_ros.prepare.calibrate import calibrate
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.rewrite import rewrite
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.verify import verify

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')
FORMATS = ('int4', pytest.param('int4-64', marks=pytest.mark.slow), 'int8')
QUESTION = 'what is on the table?'


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (90, 120, 3), np.uint8)


def group_bytes(bundle, group):
    return np.fromfile(bundle.path / group.file, np.uint8, group.nbytes,
                       offset=group.offset).reshape(group.rows, group.row_bytes)


@pytest.fixture(scope='module', params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope='module', params=FORMATS)
def packed(request, family, tiny_models, tmp_path_factory):
    """Give a packed bundle, and a folder and a bundle of the model that it stands for."""
    folder = tmp_path_factory.mktemp('packed')
    bundle = convert(tiny_models[family], folder / 'packed', rows=request.param)
    plain = AutoModelForImageTextToText.from_pretrained(tiny_models[family])
    plain.lm_head.weight = torch.nn.Parameter(plain.lm_head.weight.data.clone())  # not tied
    plain.config.tie_word_embeddings = plain.config.text_config.tie_word_embeddings = False
    plain.all_tied_weights_keys = {}
    for group in bundle.multiplied.values():
        values = torch.from_numpy(group.format.unpack_rows(group_bytes(bundle, group),
                                                           group.widths))
        left = 0
        for member in group.members:
            weight = plain.get_submodule(member.name).weight.data
            assert (weight - values[:, left:left + member.columns].t()).abs().max() < 0.05
            weight.copy_(values[:, left:left + member.columns].t())
            left += member.columns
    for path in tiny_models[family].iterdir():
        if path.suffix in ('.json', '.jinja', '.txt') and 'index' not in path.name:
            (folder / 'model').mkdir(exist_ok=True)
            shutil.copy(path, folder / 'model')
    plain.save_pretrained(folder / 'model')
    return bundle, plain.eval(), convert(folder / 'model', folder / 'plain', 'float32').path


@pytest.mark.parametrize('piece_mb, head_mb', [(16, 0), (0.02, 0), (0.02, 0.05), (16, 99)])
def test_dense_answers(packed, piece_mb, head_mb):
    bundle, plain, _ = packed
    with Session.open(bundle.path, piece_mb=piece_mb, head_mb=head_mb, drafts=False) as session:
        seen = []
        session._model.lm_head.register_forward_hook(
            lambda module, args, out: seen.append(out[-1].clone()))
        for _ in range(2):  # the first fills the heads
            seen.clear()
            session.ask(QUESTION, [picture()], max_new_tokens=3)
        with torch.inference_mode():
            inputs = session.prepare(QUESTION, [picture()])
            want = plain.generate(**inputs, max_new_tokens=3, do_sample=False, output_logits=True,
                                  return_dict_in_generate=True).logits
        for got, logits in zip(seen, want, strict=False):
            torch.testing.assert_close(got, logits[0], rtol=1e-4, atol=1e-4)


def test_sparse_answers(packed):
    """The same rows are chosen as of the plain bundle; the bytes are what a packed row has."""
    bundle, _, plain = packed
    answers = []
    for path in (bundle.path, plain):
        with Session.open(path, policy='topk', sparsity=0.5, drafts=False) as session:
            stream = session.stream(window=2)
            bills = [stream.append(picture(seed)) for seed in range(2)]
            answer = stream.ask(QUESTION, max_new_tokens=5)
            answers.append((answer, bills + answer.steps))
    (one, ours), (other, theirs) = answers
    assert one.tokens == other.tokens
    assert [bill.rows_selected for bill in ours] == [bill.rows_selected for bill in theirs]
    share = bundle.decoder_bytes / Bundle.open(plain).decoder_bytes
    assert sum(b.bytes_used for b in ours) == pytest.approx(
        share * sum(b.bytes_used for b in theirs), rel=0.15)


def test_in_bfloat16_and_by_torch_alone(packed, monkeypatch):
    """Unpacked tile by tile into a processor's fast type; and as on a GPU."""
    bundle, _, _ = packed
    for group in bundle.multiplied.values():
        raw = torch.from_numpy(group_bytes(bundle, group))
        want = torch.from_numpy(group.format.unpack_rows(raw.numpy(), group.widths))
        for dtype in (torch.float32, torch.bfloat16):
            got = torch.empty(group.rows, group.columns, dtype=dtype)
            stored_rows.widen(raw, group, got)
            assert torch.equal(got, want.to(dtype))
            with monkeypatch.context() as patch:
                patch.setattr(stored_rows, '_UNPACKED', {})
                slow = torch.empty_like(got)
                stored_rows.widen(raw, group, slow)
            assert torch.equal(slow, got)


def test_there_and_back_to_the_byte(packed, tmp_path):
    bundle, _, _ = packed
    shutil.copytree(bundle.path, tmp_path / 'calibrated')
    calibrate(tmp_path / 'calibrated', [(QUESTION, [picture(seed)]) for seed in range(2)])
    other = 'separate'
    there = rewrite(tmp_path / 'calibrated', tmp_path / 'there', 'hot-cold', other)
    assert there.rows == bundle.rows and there.layout == other and there.order == 'hot-cold'
    assert not verify(there)
    back = rewrite(there.path, tmp_path / 'back', 'original', bundle.layout)
    for group in bundle.groups.values():
        np.testing.assert_array_equal(group_bytes(back, back.groups[group.name]),
                                      group_bytes(bundle, group))
    with Session.open(bundle.path) as one, Session.open(there.path) as two:
        first, second = (session.ask(QUESTION, [picture()], max_new_tokens=6)
                         for session in (one, two))
    assert first.tokens == second.tokens


def test_manifest(packed, tmp_path):
    bundle, _, plain = packed
    manifest = json.loads((bundle.path / 'bundle.json').read_text())
    assert manifest['version'] == 3 and manifest['rows'] == bundle.rows
    assert bundle.dtype == 'float32' and bundle.lm_head.dtype == 'int8'
    assert json.loads((plain / 'bundle.json').read_text())['rows'] == 'float32'
    named = {**manifest['lm_head'], 'name': 'head'}
    for change, message in (({'rows': 'int5'}, 'rows is'), ({'version': 2}, 'not known'),
                            ({'rows': 'bfloat16'}, 'the groups are'),
                            ({'embedding': None}, 'belongs to no group'),
                            ({'lm_head': named}, 'want a group of this name'),
                            ({'embedding': manifest['lm_head']}, 'want a group of this name'),
                            ({'groups': [*manifest['groups'], manifest['lm_head']]},
                             'none of the decoder')):
        copy = tmp_path / 'copy'
        shutil.copytree(bundle.path, copy)
        (copy / 'bundle.json').write_text(json.dumps(manifest | change))
        with pytest.raises(BundleError, match=message):
            Bundle.open(copy)
        shutil.rmtree(copy)


def test_what_can_not_be_packed(tiny_models, tmp_path):
    source = tiny_models['tiny-llava-onevision']
    with pytest.raises(ModelError, match="rows 'int5' are not one of int8, int8-128"):
        convert(source, tmp_path / 'bundle', rows='int5')
    broken = tmp_path / 'broken'
    shutil.copytree(source, broken)
    model = AutoModelForImageTextToText.from_pretrained(broken)
    next(p for n, p in model.named_parameters() if 'down_proj' in n).data[3, 2] = float('inf')
    for path in broken.glob('*.safetensors*'):
        path.unlink()
    model.save_pretrained(broken)
    with pytest.raises(ModelError, match='are NaN or infinite'):
        convert(broken, tmp_path / 'bundle', rows='int4')
    assert sorted(os.listdir(tmp_path)) == ['broken']
