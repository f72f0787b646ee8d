# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tabletop model: tokenizer, training pass, resuming, and the weights that ship."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from neuron_chunk_ros import Session
from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.tabletop import evaluation, shipped
from neuron_chunk_ros.tabletop.batches import BatchMaker
from neuron_chunk_ros.tabletop.checkpoint import build_model, save
from neuron_chunk_ros.tabletop.network import answer_logits, vision_features
from neuron_chunk_ros.tabletop.questions import MULTI_VIEW, SINGLE_VIEW, sample
from neuron_chunk_ros.tabletop.scenes import render
from neuron_chunk_ros.tabletop.training import Recipe, Training, make_batch
from neuron_chunk_ros.tabletop.vocabulary import build_tokenizer

SHORT = Recipe(sight_steps=2, answer_steps=2, place_steps=2, answer_horizon=4, multi_from=0,
               sight_batch=4, single_batch=2, multi_views=4, place_views=4, warm_up=1,
               save_every=3)


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    return shipped.bundle_dir(tmp_path_factory.mktemp('cache'))


def test_every_word_is_in_the_vocabulary_and_answers_come_back():
    tokenizer = build_tokenizer()
    rng = np.random.default_rng(0)
    for kind in (*SINGLE_VIEW, *MULTI_VIEW):
        for _ in range(50):
            _, question = sample(rng, kind)
            for text in (question.text, question.answer):
                ids = tokenizer.encode(text, add_special_tokens=False)
                assert tokenizer.unk_token_id not in ids, text
            assert tokenizer.decode(tokenizer.encode(question.answer)) == question.answer
    assert tokenizer.encode('What color is it?') == tokenizer.encode('what colour is it ?')


def test_the_training_pass_equals_the_models_own_forward(tmp_path):
    """Packed questions give each the logits it gets when asked alone through transformers."""
    save(build_model(3), tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    maker = BatchMaker()
    rng = np.random.default_rng(2)
    scenes, first = sample(rng, 'views')
    others = [sample(rng, kind)[1] for kind in ('colour', 'quadrant', 'moved')]
    batch = maker([(scenes, [first, *others])])
    with torch.inference_mode():
        packed, _, _ = answer_logits(model, batch, vision_features(model, batch.pixels))
        alone = []
        for question in (first, *others):
            one = maker([(scenes, [question])])
            logits = model(input_ids=one.ids, pixel_values_videos=one.pixels[0][:, None]).logits
            alone.append(logits[one.labels != -100])
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_the_chat_template_asks_as_training_did(bundle):
    rng = np.random.default_rng(5)
    with Session.open(bundle) as session:
        assert session.model_name == 'tabletop'
        for kind in ('colour', 'which'):
            scenes, question = sample(rng, kind)
            inputs = session.prepare(question.text, [render(s) for s in scenes])
            batch = BatchMaker((640, 480))([(scenes, [question])])
            answer = 1 + len(build_tokenizer().encode(question.answer))
            # The answer's last word is only predicted, so its others end the packed sequence.
            asked = batch.ids.shape[1] - (answer - 1)
            assert inputs['input_ids'][0].tolist() == batch.ids[0, :asked].tolist()
            torch.testing.assert_close(inputs['pixel_values_videos'][:, 0].float(),
                                       batch.pixels[0], rtol=0, atol=0.01)


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not(tmp_path):
    def weights(training):
        return torch.cat([p.detach().flatten() for p in training.parameters.values()])

    torch.set_num_threads(1)
    whole = Training(tmp_path / 'whole', SHORT)
    whole.run(lambda *_: None)
    steps = []
    parts = Training(tmp_path / 'parts', SHORT)
    assert not parts.run(lambda step, _: steps.append(step), lambda: len(steps) == 3)
    resumed = Training(tmp_path / 'parts', SHORT)
    assert resumed.step == 3
    assert resumed.run(lambda *_: None)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    assert [p.name for p in (tmp_path / 'parts').glob('*.safetensors')] == ['state-6.safetensors']
    with pytest.raises(ModelError, match='another recipe'):
        Training(tmp_path / 'parts', replace(SHORT, seed=2))


def test_batches_depend_on_seed_and_step_alone():
    maker = BatchMaker()
    first, second = (make_batch(SHORT, maker, 4) for _ in range(2))
    assert torch.equal(first.ids, second.ids) and torch.equal(first.pixels, second.pixels)
    other = make_batch(replace(SHORT, seed=2), maker, 4)
    assert not torch.equal(first.pixels, other.pixels)


def test_the_shipped_folder_loads_with_transformers():
    folder = shipped.model_dir()
    size = sum(p.stat().st_size for p in folder.iterdir())
    assert size <= 16e6
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.config.model_type == 'llava_onevision' and model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    assert tokenizer.chat_template == build_tokenizer().chat_template


@pytest.mark.slow
def test_the_shipped_model_answers():
    """Fewer questions than `neuron-chunk tabletop eval` asks, so with some room for chance."""
    scores = evaluation.exact_match(shipped.model_dir(), per_type=60, seed=77)
    print(evaluation.table(scores))
    assert np.mean([scores[k] for k in SINGLE_VIEW]) >= 0.95
    assert np.mean([scores[k] for k in MULTI_VIEW]) >= 0.9
    assert min(scores.values()) >= 0.85


def test_from_flash_it_answers_as_it_does_in_memory(bundle):
    """Every answer through the session equals the teacher-forced score's verdict."""
    rng = np.random.default_rng(8)
    model = AutoModelForImageTextToText.from_pretrained(shipped.model_dir())
    agree = right = 0
    with Session.open(bundle) as session:
        for kind in (*SINGLE_VIEW, *MULTI_VIEW):
            for _ in range(2):
                scenes, question = sample(rng, kind)
                answer = session.ask(question.text, [render(s) for s in scenes])
                inputs = session.prepare(question.text, [render(s) for s in scenes])
                ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
                plain = session._prompts.tokenizer.decode(
                    ids[0, inputs['input_ids'].shape[1]:], skip_special_tokens=True)
                agree += answer.text == plain
                right += answer.text == question.answer
    assert agree >= 17, 'bfloat16 ties may flip one answer in 18, not more'
    assert right >= 15


def test_a_bundle_is_made_once_and_remade_for_a_new_model(tmp_path):
    first = shipped.bundle_dir(tmp_path)
    stamp = (first / 'bundle.json').stat().st_mtime_ns
    assert shipped.bundle_dir(tmp_path) == first
    assert (first / 'bundle.json').stat().st_mtime_ns == stamp
    assert [p.name for p in tmp_path.iterdir()] == [first.name]
    heads = Bundle.open(first).attention['heads']
    assert [len(layer) for layer in heads] == [4] * 5 and any(map(any, heads))
