# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Heads by class in the engine: transformers with the same masks written out, and segments."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from neuron_chunk_ros.attention.segments import Segment, SegmentTable
from neuron_chunk_ros.attention.templates import DENSE, INTRA, INTRA_SINK, NAMES, SINK, allowed
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.prepare.calibrate import calibrate
from neuron_chunk_ros.prepare.rewrite import rewrite
from neuron_chunk_ros.storage.annotate import store_attention
from neuron_chunk_ros.storage.bundle import Bundle

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')
QUESTION = 'which view shows the red square?'
LAYERS, HEADS = 3, 4


def pictures(count):
    rng = np.random.default_rng(count)
    return [rng.integers(0, 256, (80, 100, 3), np.uint8) for _ in range(count)]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def copy(tiny_bundles, family, tmp_path):
    """Give a function that copies a bundle and gives it classes."""
    def made(heads, name='copy'):
        path = shutil.copytree(tiny_bundles[family], tmp_path / name)
        store_attention(Bundle.open(path), heads, {'why': 'a test'})
        return path
    return made


def mixed(seed):
    return np.random.default_rng(seed).integers(0, len(NAMES), (LAYERS, HEADS)).tolist()


def logits(session, shown, names=None):
    """Return the logits of the last eight tokens of a prompt."""
    piece = session._inputs.whole(QUESTION, shown, names)
    cache = session._memory.cache(0)
    with session._runner.work(None, None, None):
        _, bill, out = session._runner.step('prefill', piece, cache, 0, logits=8)
    return piece, out, bill


def masked(model, inputs, segments, heads):
    """Run transformers' model, each head under its mask written out."""
    table = SegmentTable(segments)

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        shared = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(shared, dim=1) for x in (key, value))
        mask = torch.stack([allowed(table, kind, 0) for kind in heads[module.layer_idx]])
        scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~mask[None], -torch.inf)
        return (scores.softmax(-1) @ value).transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register('masks_of_this_test', attend)
    model.config.text_config._attn_implementation = 'masks_of_this_test'
    with torch.inference_mode():
        return model(**inputs).logits[0, -8:]


@pytest.mark.parametrize('names', [None, ['left', '', 'right']])
@pytest.mark.parametrize('seed', range(3))
def test_the_engine_is_transformers_under_the_same_masks(family, tiny_models, copy, seed, names):
    heads, shown = mixed(seed), pictures(3)
    model = AutoModelForImageTextToText.from_pretrained(tiny_models[family]).eval()
    with Session.open(copy(heads), attention='blindsight') as session:
        piece, got, bill = logits(session, shown, names)
        inputs = session.prepare(QUESTION, shown, names)
        session.configure(attention='dense')
        _, dense, whole = logits(session, shown, names)
    kinds = [segment.image for segment in piece.segments]
    assert kinds == [False, True, True, True, False]
    assert sum(segment.tokens for segment in piece.segments) == piece.tokens
    want = masked(model, inputs, piece.segments, heads)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    assert (got - dense).abs().max() > 0.01, 'the classes changed nothing'
    assert 0.1 < bill.attention_density < 1 == whole.attention_density


def test_dense_classes_change_not_one_bit(copy, tiny_bundles, family):
    found = []
    for path, how in ((tiny_bundles[family], 'dense'),
                      (copy([[DENSE] * HEADS] * LAYERS), 'blindsight')):
        with Session.open(path, attention=how) as session:
            found.append(logits(session, pictures(2))[1])
    assert torch.equal(*found)


@pytest.mark.parametrize('window', [2, 3])
def test_a_stream_is_a_prompt(copy, window):
    """Frames that come one by one and leave: the same logits as all at once, whoever is looked at.

    Heads here see what doesn't depend on frames that left: their own image, or sinks ahead.
    """
    heads = [[INTRA, SINK, INTRA_SINK, INTRA]] * LAYERS
    shown = pictures(4)
    with Session.open(copy(heads), attention='blindsight', drafts=False) as session:
        stream = session.stream(window)
        for picture in shown[:window]:
            bill = stream.append(picture)
            assert 0 < bill.attention_density <= 1
        want = session.ask(QUESTION, shown[:window], max_new_tokens=5)
        got = stream.ask(QUESTION, max_new_tokens=5)
        assert got.text == want.text
        assert got.confidence == pytest.approx(want.confidence, rel=1e-3)
        table = stream._cache.segments
        for picture in shown[window:]:
            stream.append(picture)
            table = stream._cache.segments
            assert [segment.image for _, segment in table] == [False] + [True] * window
            assert table.tokens == stream.tokens == stream._cache.get_seq_length()
        stream.ask(QUESTION, max_new_tokens=3)
        assert table.tokens == stream.tokens
        stream.clear()
        assert not len(stream._cache.segments)


def test_an_append_that_fails_leaves_the_segments(copy):
    with Session.open(copy([[INTRA] * HEADS] * LAYERS), attention='blindsight') as session:
        stream = session.stream(2)
        for picture in pictures(2):
            stream.append(picture)
        before = list(stream._cache.segments)
        looks = iter([False] * 3)
        with pytest.raises(Exception, match='cancelled'):
            stream.append(pictures(3)[2], cancelled=lambda: next(looks, True))
        assert list(stream._cache.segments) == before
        assert stream._cache.segments.tokens == stream.tokens == stream._cache.get_seq_length()
        stream.append(pictures(3)[2])
        assert stream.ask(QUESTION, max_new_tokens=2).tokens


def test_classes_stay_with_the_bundle(copy, tmp_path):
    heads = mixed(5)
    path = copy(heads)
    manifest = json.loads((path / 'bundle.json').read_text())
    assert manifest['version'] == 5
    calibrate(path, [(QUESTION, pictures(1))])
    again = rewrite(path, tmp_path / 'new', 'hot-cold', 'separate')
    for one in (Bundle.open(path), again):
        assert one.attention == {'heads': heads, 'about': {'why': 'a test'}}
    with Session.open(again.path, attention='blindsight') as session:
        assert 'classes' not in ' '.join(session.notes)


@pytest.mark.parametrize('heads, message', [
    ([[0] * HEADS] * (LAYERS + 1), 'its head classes are of 4 layers of 4 heads, the model has 3'),
    ([[0] * 2] * LAYERS, 'characterise it again')])
def test_classes_of_another_model_are_refused(copy, heads, message):
    with pytest.raises(BundleError, match=message):
        Session.open(copy(heads))


@pytest.mark.parametrize('value', [
    {}, None, [], {'heads': [], 'about': {}}, {'heads': [[0], [0, 1]], 'about': {}},
    {'heads': [[4]], 'about': {}}, {'heads': [[True]], 'about': {}},
    {'heads': [[0.0]], 'about': {}}, {'heads': [[]], 'about': {}},
    {'heads': [[0]], 'about': 1}, {'heads': [[0]], 'about': {}, 'more': 1}])
def test_classes_that_are_none(copy, value):
    path = copy([[0] * HEADS] * LAYERS)
    manifest = json.loads((path / 'bundle.json').read_text())
    (path / 'bundle.json').write_text(json.dumps({**manifest, 'attention': value}))
    with pytest.raises(BundleError, match='attention'):
        Bundle.open(path)


def test_what_can_not_be_asked(tiny_bundles, family):
    with pytest.raises(ValueError, match="attention is 'some', want one of dense, blindsight"):
        Session.open(tiny_bundles[family], attention='some')
    with Session.open(tiny_bundles[family], attention='blindsight') as session:
        assert any('no classes of heads' in note for note in session.notes)
        assert session.ask(QUESTION, pictures(2), max_new_tokens=2).io.attention_density == 1


def test_segments_of_prompts_without_images(tiny_bundles, family):
    with Session.open(tiny_bundles[family]) as session:
        piece = session._inputs.whole(QUESTION, [], None)
        assert piece.segments == ()
        cache = session._memory.cache(0)
        with session._runner.work(None, None, None):
            session._runner.step('prefill', piece, cache, 0)
        assert list(cache.segments) == [(0, Segment(piece.tokens))]
