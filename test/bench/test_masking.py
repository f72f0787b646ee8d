# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Masks on a batch against one prompt at a time through plain hooks; the exam likewise."""

import json

import numpy as np
import pytest
import torch

from neuron_chunk_ros.bench import tabletop_model
from neuron_chunk_ros.bench.accuracy.masking import FrameMasks
from neuron_chunk_ros.bench.accuracy.selecting import FrameSelections, as_runs
from neuron_chunk_ros.bench.tabletop_exam import TYPES, tabletop_exam
from neuron_chunk_ros.chunking import runs
from neuron_chunk_ros.families import family_for
from neuron_chunk_ros.tabletop import shipped
from neuron_chunk_ros.tabletop.batches import FRAME_TOKENS, BatchMaker
from neuron_chunk_ros.tabletop.network import answer_logits, vision_features
from neuron_chunk_ros.tabletop.questions import ask, scenes_for


@pytest.fixture(scope='module')
def model():
    return tabletop_model.load().float()


@pytest.fixture(scope='module')
def groups():
    config = json.loads((shipped.model_dir() / 'config.json').read_text())
    return family_for(config).groups(config)


def prompts(kind, views, number):
    rng = np.random.default_rng(9)
    found = []
    while len(found) < number:
        scenes = scenes_for(rng, kind, views)
        question = ask(scenes, rng, kind)
        if question and len(scenes) == (views or 1):
            found.append((scenes, [question]))
    return found


def half(index, importance):
    """Keep the more important half of every frame's rows, by plain sorting."""
    order = np.argsort(-importance, axis=1)[:, :importance.shape[1] // 2]
    read = np.zeros(importance.shape, bool)
    np.put_along_axis(read, order, True, axis=1)
    return read


def frames_of(model, batch):
    visual = batch.ids == model.config.video_token_id
    number = (visual.flatten().cumsum(0) - 1) // FRAME_TOKENS
    return number.view_as(batch.ids).masked_fill(~visual, -1)


def plain_logits(model, groups, prompt):
    """One prompt alone; each layer's hook zeroes each frame's less important half by itself."""
    batch = BatchMaker((640, 480))([prompt])
    visual = (batch.ids[0] == model.config.video_token_id).numpy()
    frames = np.flatnonzero(visual).reshape(-1, FRAME_TOKENS)
    hooks = []

    def hook(module, inputs):
        x = inputs[0].clone()
        for tokens in frames:
            importance = inputs[0][0, tokens].abs().mean(dim=0).numpy()
            least = np.argsort(importance)[:len(importance) // 2]
            for token in tokens:
                x[0, token, least] = 0
        return (x,)

    for group in groups:
        for member in group.members:
            hooks.append(model.get_submodule(member.name).register_forward_pre_hook(hook))
    try:
        with torch.inference_mode():
            logits, _, hidden = answer_logits(model, batch, vision_features(model, batch.pixels))
    finally:
        for one in hooks:
            one.remove()
    return logits, hidden[-1][0]


@pytest.mark.parametrize('kind, views', [('colour', None), ('which', 3)])
def test_a_batch_is_masked_as_each_prompt_alone(model, groups, kind, views):
    asked = prompts(kind, views, 4)
    batch = BatchMaker((640, 480))(asked)
    with torch.inference_mode():
        features = vision_features(model, batch.pixels)
        dense, _, _ = answer_logits(model, batch, features)
        with FrameMasks(model, groups, half) as masks:
            masks.enter_batch(frames_of(model, batch))
            logits, _, hidden = answer_logits(model, batch, features)
    at = 0
    for number, prompt in enumerate(asked):
        want, last = plain_logits(model, groups, prompt)
        torch.testing.assert_close(logits[at:at + len(want)], want, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(hidden[-1][number, :len(last)], last, atol=2e-3, rtol=1e-3)
        at += len(want)
    assert at == len(logits)
    assert (logits - dense).abs().max() > 0.1, 'the masks changed nothing'


def test_reading_everything_changes_nothing_and_hooks_go(model, groups):
    batch = BatchMaker((640, 480))(prompts('shape', None, 3))
    with torch.inference_mode():
        features = vision_features(model, batch.pixels)
        want, _, _ = answer_logits(model, batch, features)
        with FrameMasks(model, groups, lambda index, v: np.ones(v.shape, bool)) as masks:
            masks.enter_batch(frames_of(model, batch))
            got, _, _ = answer_logits(model, batch, features)
        torch.testing.assert_close(got, want, atol=0, rtol=0)
        with FrameMasks(model, groups, lambda index, v: np.zeros(v.shape, bool)) as masks:
            masks.enter_batch(frames_of(model, batch))
            answer_logits(model, batch, features)
        after, _, _ = answer_logits(model, batch, features)
    torch.testing.assert_close(after, want, atol=0, rtol=0)


def test_layers_that_share_an_input_share_a_selection(model, groups):
    asked = []

    def choose(index, importance):
        asked.append((index, importance.shape))
        return half(index, importance)

    batch = BatchMaker((640, 480))(prompts('views', 2, 3))
    with torch.inference_mode(), FrameMasks(model, groups, choose) as masks:
        masks.enter_batch(frames_of(model, batch))
        answer_logits(model, batch, vision_features(model, batch.pixels))
    assert asked == [(i, (6, group.rows)) for i, group in enumerate(groups)]


def test_the_exam_scores_as_if_each_question_were_asked_alone(model):
    exam = tabletop_exam(model, 6, 5)
    right = exam.right(model)
    assert set(exam.kinds) == set(range(len(TYPES))) and len(right) == len(exam)
    # The same scenes and questions, one prompt each, scored by generating word for word.
    maker, number = BatchMaker((640, 480)), 0
    rng = np.random.default_rng([5, 0])
    for _ in range(6):
        scenes = scenes_for(rng, TYPES[0])
        for kind in TYPES[:6]:
            question = ask(scenes, rng, kind)
            if question is None:
                continue
            batch = maker([(scenes, [question])])
            with torch.inference_mode():
                logits, labels, _ = answer_logits(
                    model, batch, vision_features(model, batch.pixels))
            assert TYPES[exam.kinds[number]] == kind
            assert right[number] == bool((logits.argmax(-1) == labels).all())
            number += 1


def test_accuracy_is_the_mean_over_types(model):
    exam = tabletop_exam(model, 4, 6)
    rng = np.random.default_rng(0)
    right = rng.random((3, len(exam))) < 0.7
    want = [np.mean([one[exam.kinds == kind].mean() for kind in set(exam.kinds)])
            for one in right]
    np.testing.assert_allclose(exam.accuracy(right), want)
    replicas = exam.accuracy_replicas(right, rng, 200)
    assert replicas.shape == (3, 200) and (replicas >= 0).all() and (replicas <= 1).all()
    np.testing.assert_allclose(replicas.mean(axis=1), want, atol=0.1)
    all_right = exam.accuracy_replicas(np.ones((1, len(exam)), bool), rng, 50)
    np.testing.assert_allclose(all_right, 1)


@pytest.mark.parametrize('ordered', [False, True])
def test_selections_follow_the_order_of_rows(ordered):
    rng = np.random.default_rng(1)
    importance = rng.random((5, 40)).astype(np.float32)
    order = rng.permutation(40).astype(np.int32) if ordered else None
    # Whatever lies first on flash is read.
    chooser = FrameSelections(lambda index, values: np.array([[0, 7], [10, 3]]), [order], 2)
    read = chooser(0, importance)
    places = np.r_[0:7, 10:13]
    want = np.zeros(40, bool)
    want[places if order is None else order[places]] = True
    assert (read == want).all()
    assert [len(frames) for frames in chooser.read] == [2]
    np.testing.assert_array_equal(as_runs(read[0], order), [[0, 7], [10, 3]])
    share = importance[:, want].sum(axis=1) / importance.sum(axis=1)
    assert chooser.importance_kept == pytest.approx(share.mean(), rel=1e-5)


def test_runs_of_rows_read():
    rng = np.random.default_rng(2)
    for _ in range(50):
        read = rng.random(30) < rng.random()
        np.testing.assert_array_equal(runs.indices(as_runs(read, None)), np.flatnonzero(read))
