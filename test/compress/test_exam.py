# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Questions asked before and after compressing, and the report of what it cost."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.compress.exam import MOST_TOKENS, Exam
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.families import prompt_builder
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.storage.side_files import SideFiles

GOOD = {'prompt': 'what is it?', 'answer': 'A cup.', 'images': ['p0.png'], 'type': 'thing'}


@pytest.fixture
def pictures(tmp_path):
    folder, rng = tmp_path / 'pictures', np.random.default_rng(0)
    folder.mkdir()
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (56, 56, 3), np.uint8)).save(
            folder / f'p{number}.png')
    return folder


def write(pictures, questions):
    path = pictures / 'questions.jsonl'
    path.write_text(''.join(json.dumps(question) + '\n' for question in questions))
    return path


def test_answers_are_counted_by_type(pictures):
    exam = Exam.load(write(pictures, [
        GOOD, {**GOOD, 'answer': 'fork'}, {**GOOD, 'type': 'colour', 'images': []}]))
    seen = []

    def ask(prompt, images):
        seen.append([image.shape for image in images])
        return ' a CUP\n' if len(seen) < 4 else 'Fork'

    exam.ask(ask, after=False)
    exam.ask(ask, after=True)
    assert seen[:3] == [[(56, 56, 3)], [(56, 56, 3)], []]
    assert exam.answers.record() == {'thing': {'asked': 2, 'before': 1, 'after': 1},
                                     'colour': {'asked': 1, 'before': 1, 'after': 0}}
    assert [line.split() for line in exam.answers.text().splitlines()] == [
        ['answers', 'right', 'asked', 'before', 'after'],
        ['thing', '2', '0.500', '0.500'], ['colour', '1', '1.000', '0.000'],
        ['mean', 'of', 'types', '3', '0.750', '0.250']]


@pytest.mark.parametrize(('line', 'fault'), [
    ('{', 'not a JSON object'),
    ('[]', 'not a JSON object'),
    ({'prompt': 'a', 'images': []}, 'answer is missing'),
    ({**GOOD, 'prompt': 3}, 'prompt must be a text'),
    ({**GOOD, 'images': 'p0.png'}, 'images must be a list'),
    ({**GOOD, 'images': [1]}, 'images must be paths'),
    ({**GOOD, 'images': ['gone.png']}, r'no picture .*gone\.png'),
    ({**GOOD, 'kind': 'x'}, 'kind: no such key'),
    ({**GOOD, 'answer': ' . '}, 'must not be empty'),
    ({**GOOD, 'prompt': ''}, 'must not be empty')])
def test_faults_name_the_line(pictures, line, fault):
    path = write(pictures, [GOOD])
    with path.open('a') as file:
        file.write('\n' + (line if isinstance(line, str) else json.dumps(line)) + '\n')
    with pytest.raises(RequestError, match=rf'questions\.jsonl:3: .*{fault}'):
        Exam.load(path)


def test_files_that_can_not_be_used(pictures):
    with pytest.raises(RequestError, match='gone.jsonl: not a readable file'):
        Exam.load(pictures / 'gone.jsonl')
    with pytest.raises(RequestError, match='not a readable file'):
        Exam.load(pictures / 'p0.png')
    with pytest.raises(RequestError, match='no question in it'):
        Exam.load(write(pictures, []))
    exam = Exam.load(write(pictures, [GOOD]))
    (pictures / 'p0.png').write_bytes(b'no picture')
    with pytest.raises(RequestError, match=r'p0\.png: not a readable picture'):
        exam.ask(lambda prompt, images: '', after=False)


def test_a_bundles_report(tiny_models, pictures, tmp_path, capsys):
    """Before and after are what the source and the compressed model really answer."""
    source = convert(tiny_models['tiny-qwen2-vl'], tmp_path / 'source', 'bfloat16').path

    def answers(bundle):
        with Session.open(bundle) as session:
            return [session.ask(f'what is {n}?', [np.asarray(Image.open(pictures / f'p{n}.png'))],
                                max_new_tokens=MOST_TOKENS).text for n in range(3)]

    had = answers(source)
    questions = write(pictures, [
        {'type': f'type {n}', 'prompt': f'what is {n}?', 'images': [f'p{n}.png'],
         'answer': had[n] if n else 'nothing it would say'} for n in range(3)])
    recipe = tmp_path / 'coarse.yaml'
    recipe.write_text('name: coarse\nlayers: [{weights: {bits: 2, group: row, '
                      'quantiser: minmax}}]\n')
    arguments = ['compress', str(source), str(tmp_path / 'out'), '--recipe', str(recipe),
                 '--images', str(pictures), '--questions', str(questions)]
    assert main([*arguments, '--figure', str(tmp_path / 'gone' / 'a.png')]) == 1
    assert main([*arguments, '--figure', str(tmp_path / 'a.doc')]) == 1
    assert not (tmp_path / 'out').exists()
    assert main([*arguments, '--report', str(tmp_path / 'report.json'), '--figure',
                 str(tmp_path / 'figure.png')]) == 0
    assert 'mean of types' in capsys.readouterr().out
    got = json.loads((tmp_path / 'report.json').read_text())['answers']
    now = answers(tmp_path / 'out')
    assert [one['before'] for one in got.values()] == [0, 1, 1]
    assert [one['after'] for one in got.values()] == [0, *(now[n] == had[n] for n in (1, 2))]
    assert now != had  # two bits with one scale a row change what this model says
    with Image.open(tmp_path / 'figure.png') as figure:
        assert figure.width > 1000 and len(figure.convert('L').getcolors()) > 50


@pytest.mark.slow
def test_a_report_of_integers(tiny_models, pictures, tmp_path):
    """Answers and errors are the model's own; more bits, less error."""
    folder = tiny_models['tiny-llava-onevision']
    model = AutoModelForImageTextToText.from_pretrained(folder).float().eval()
    prompts = prompt_builder('llava_onevision', SideFiles.of_model(folder), model.config)
    image = np.asarray(Image.open(pictures / 'p0.png'))
    inputs = prompts.build('what is it?', [image])
    with torch.no_grad():
        made = model.generate(**inputs, do_sample=False, max_new_tokens=MOST_TOKENS)
    said = prompts.tokenizer.decode(made[0, inputs['input_ids'].shape[1]:],
                                    skip_special_tokens=True)
    questions = write(pictures, [{**GOOD, 'answer': said}, {**GOOD, 'answer': 'no, ' + said}])
    worst = {}
    for bits in (4, 8):
        recipe = tmp_path / f'bits-{bits}.yaml'
        recipe.write_text(
            f'name: x\nlayers: [{{weights: {{bits: {bits}, group: column, quantiser: minmax}}, '
            'activations: {bits: 8, quantiser: minmax}}]\n'
            'fixed_point: {word: 24, fraction: 16}\n')
        assert main(['compress', str(folder), str(tmp_path / str(bits)), '--recipe', str(recipe),
                     '--images', str(pictures), '--report', str(tmp_path / 'report.json'),
                     *(['--questions', str(questions), '--figure', str(tmp_path / 'figure.svg')]
                       if bits == 8 else [])]) == 0
        report = json.loads((tmp_path / 'report.json').read_text())
        worst[bits] = max(report['errors'].values())
        assert set(map(tuple, report['bits'].values())) == {(bits, 8)}
        if bits == 8:
            assert report['answers']['thing']['before'] == 1
        assert report['nbytes'] / report['nbytes_before'] == pytest.approx(bits / 32, rel=0.1)
    assert 0 < worst[8] < worst[4] < 1
    assert 'svg' in (tmp_path / 'figure.svg').read_text()[:300]
