# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A model's own generation settings: the text is `generate`'s, with drafts and without."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, GenerationConfig

from neuron_chunk_ros.engine.drafts import Drafting, PromptLookup
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import BundleError, ModelError
from neuron_chunk_ros.families.generation import _CHECKS, _NOT_DONE, generation_settings
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.storage.side_files import SideFiles

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')
QUESTION, LENGTH = 'what is on the table?', 16


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (56, 56, 3), np.uint8)


def with_settings(source, target, **changed):
    """Return a model folder, copied, with other settings."""
    folder = shutil.copytree(source, target)
    path = folder / 'generation_config.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    return folder


@pytest.fixture(scope='module')
def plain(tiny_models):
    return {family: AutoModelForImageTextToText.from_pretrained(tiny_models[family]).eval()
            for family in FAMILIES}


@pytest.fixture(scope='module')
def first(plain, tiny_models, tiny_bundles):
    """Map family -> (its session, the prompt's length, the answer's tokens without settings)."""
    found = {}
    for family in FAMILIES:
        session = Session.open(tiny_bundles[family])
        prompt, ids = generated(plain[family], tiny_models[family], session)
        found[family] = session, prompt.shape[1], ids
    yield found
    for session, *_ in found.values():
        session.close()


def generated(model, folder, session, images=1, **changed):
    """Return the prompt's tokens and the answer's, by transformers' own loop and settings."""
    values = json.loads((folder / 'generation_config.json').read_text())
    model.generation_config = GenerationConfig(**{**values, **changed})
    inputs = session.prepare(QUESTION, [picture(seed) for seed in range(images)])
    with torch.inference_mode():
        whole = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)
    return inputs['input_ids'], whole[0, inputs['input_ids'].shape[1]:].tolist()


class Guesses:
    """Drafts the answer itself, every third token wrong: right ones and wrong ones are judged."""

    def __init__(self, answer, prompt):
        self.answer, self.prompt = answer, prompt

    def propose(self, tokens, most):
        at = len(tokens) - self.prompt
        return [token if (at + i) % 3 else token ^ 1
                for i, token in enumerate(self.answer[at:at + most])]


SETTINGS = {
    'repetition_penalty': lambda p, d: {'repetition_penalty': 1.7},
    'a whole repetition_penalty': lambda p, d: {'repetition_penalty': 2},
    'encoder_repetition_penalty': lambda p, d: {'encoder_repetition_penalty': 3.0},
    'no_repeat_ngram_size': lambda p, d: {'no_repeat_ngram_size': 2},
    'encoder_no_repeat_ngram_size': lambda p, d: {'encoder_no_repeat_ngram_size': 1},
    'bad_words_ids': lambda p, d: {'bad_words_ids': [[d[0]], [d[1], d[2]]]},
    'min_new_tokens': lambda p, d: {'eos_token_id': [d[2], 1], 'min_new_tokens': 9},
    'min_length': lambda p, d: {'eos_token_id': d[2], 'min_length': p + 7},
    'forced_bos_token_id': lambda p, d: {'forced_bos_token_id': 5},
    'forced_eos_token_id': lambda p, d: {'forced_eos_token_id': [4]},
    'exponential_decay': lambda p, d: {'exponential_decay_length_penalty': [2, 9.0]},
    'suppress_tokens': lambda p, d: {'suppress_tokens': [d[0], d[3]]},
    'begin_suppress_tokens': lambda p, d: {'begin_suppress_tokens': [d[0]]},
    'sequence_bias': lambda p, d: {'sequence_bias': [[[d[0]], -9.5], [[d[1], d[2]], -20.0]]},
    'renormalize_logits': lambda p, d: {'renormalize_logits': True},
    'all at once': lambda p, d: {
        'repetition_penalty': 1.3, 'no_repeat_ngram_size': 3, 'suppress_tokens': [d[1]],
        'begin_suppress_tokens': [d[0]], 'bad_words_ids': [[d[4]]], 'min_new_tokens': 5,
        'eos_token_id': d[5], 'sequence_bias': [[[d[2]], 4.0]]},
}
SAME = {'forced_bos_token_id', 'renormalize_logits'}  # they change no text of a real prompt


@pytest.mark.parametrize('family', [
    pytest.param(FAMILIES[0], marks=pytest.mark.slow), FAMILIES[1]])
@pytest.mark.parametrize('name', SETTINGS)
def test_the_text_is_generates(plain, tiny_models, first, family, name, monkeypatch):
    session, length, before = first[family]
    changed, folder = SETTINGS[name](length, before), tiny_models[family]
    # transformers takes no whole number for a penalty
    theirs = {key: float(value) if key == 'repetition_penalty' else value
              for key, value in changed.items()}
    _, want = generated(plain[family], folder, session, **theirs)
    assert (want != before) == (name not in SAME)
    stops = changed.get('eos_token_id', sorted(session._generation.stops))
    stops = stops if isinstance(stops, list) else [stops]
    made = generation_settings({**changed, 'eos_token_id': stops}, None, 512, 'f.json')
    runner, told = session._runner, said(session, monkeypatch)
    monkeypatch.setattr(runner, '_settings', made)
    monkeypatch.setattr(runner, '_stops', frozenset(stops))
    for drafting in (None, Drafting(PromptLookup()), Drafting(Guesses(want, length))):
        monkeypatch.setattr(runner, '_drafting', drafting)
        answer = session.ask(QUESTION, [picture()], max_new_tokens=LENGTH)
        assert told[-1] == want and 0 <= answer.confidence <= 1
    if len(want) > 6:
        assert 0 < answer.io.tokens_accepted < answer.io.tokens_drafted


def said(session, monkeypatch):
    """Return a list that each answer's tokens will be entered in."""
    told, generate = [], session._runner._text
    monkeypatch.setattr(session._runner, '_text',
                        lambda ids: told.append(list(ids)) or generate(ids))
    return told


@pytest.mark.parametrize('family', FAMILIES)
def test_a_bundles_own_settings(plain, tiny_models, tmp_path, monkeypatch, family):
    """Read from its folder; what bases draft is judged by them, and so are streams' questions."""
    changed = {'repetition_penalty': 1.6, 'no_repeat_ngram_size': 2,
               'encoder_no_repeat_ngram_size': 2}
    folder = with_settings(tiny_models[family], tmp_path / 'model', **changed)
    bundle = convert(folder, tmp_path / 'bundle', rows='int8', base=4).path
    answers, streamed = [], []
    for drafts in (False, True):
        with Session.open(bundle, drafts=drafts, head_mb=0) as session:
            told = said(session, monkeypatch)
            answer = session.ask(QUESTION, [picture()], max_new_tokens=LENGTH)
            answers.append(told[-1])
            stream = session.stream(window=2)
            for seed in (0, 1):
                stream.append(picture(seed))
            # What stands ahead of the question is part of the prompt that settings look at.
            prompt = session.prepare(QUESTION, [picture(0), picture(1)])['input_ids']
            ahead = torch.cat([segment.ids for segment in stream._segments], dim=1)
            assert torch.equal(ahead, prompt[:, :ahead.shape[1]])
            stream.ask(QUESTION, max_new_tokens=LENGTH)
            streamed.append(told[-1])
            pairs = {tuple(prompt[0, i:i + 2].tolist()) for i in range(prompt.shape[1] - 1)}
    assert answers[0] == answers[1] and answer.io.tokens_drafted > 0
    assert streamed[0] == streamed[1]
    for ids in (answers[0], streamed[0]):
        found = list(zip(ids, ids[1:], strict=False))
        assert len(set(found)) == len(found)
    assert not pairs & set(zip(streamed[0], streamed[0][1:], strict=False))


@pytest.mark.parametrize('family', FAMILIES)
def test_a_stream_answers_as_generate(plain, tiny_models, tmp_path, monkeypatch, family):
    changed = {'repetition_penalty': 3.0, 'no_repeat_ngram_size': 1}
    folder = with_settings(tiny_models[family], tmp_path / 'model', **changed)
    with Session.open(convert(folder, tmp_path / 'bundle').path) as session:
        _, want = generated(plain[family], folder, session, images=2)
        told, stream = said(session, monkeypatch), session.stream(window=2)
        for seed in (0, 1):
            stream.append(picture(seed))
        stream.ask(QUESTION, max_new_tokens=LENGTH)
        assert told[-1] == want


def test_what_is_not_done_is_said(tiny_models, tmp_path, capsys):
    folder = with_settings(tiny_models['tiny-qwen2-vl'], tmp_path / 'model', do_sample=True,
                           temperature=0.01, top_k=1, num_beams=4, stop_strings=['end'])
    bundle = convert(folder, tmp_path / 'bundle').path
    with Session.open(bundle) as session:
        assert [note for note in session.notes if 'generation_config' in note] == [
            'generation_config.json asks for sampling, beams, stop strings, which is not done: '
            'each word is the likeliest one']
    from neuron_chunk_ros.cli.main import main
    assert main(['ask', str(bundle), 'what?', '--max-new-tokens=2']) == 0
    assert capsys.readouterr().err.count('sampling, beams') == 1


def test_without_settings_nothing_is_said_or_changed(tiny_bundles):
    with Session.open(tiny_bundles['tiny-qwen2-vl']) as session:
        assert not any('generation' in note for note in session.notes)
        assert not session._generation.processors(torch.tensor([[1, 2]]), 4)


WRONG = {
    'repetition_penalty': [0, -1.5, 'high', [1.2], 1e9, True], 'no_repeat_ngram_size': [-1, 2.5],
    'encoder_repetition_penalty': [0, 'x'], 'encoder_no_repeat_ngram_size': [-2],
    'suppress_tokens': [5, [-1], ['a'], [10**9], [1.5]], 'begin_suppress_tokens': [[10**9]],
    'bad_words_ids': [[5], [[]], [[-1]], 'x', [[10**9]]], 'min_new_tokens': [-1, '5'],
    'min_length': [1.5], 'forced_bos_token_id': [10**9, [3]], 'forced_eos_token_id': [[], -1],
    'exponential_decay_length_penalty': [[1], 5, [1, 0], [-1, 2.0]],
    'sequence_bias': [[[5, 1]], {'a': 1}, [[[5], 'x']], [[[], 1.0]]],
    'eos_token_id': ['</s>', -1, [10**9], []], 'do_sample': ['yes', 1], 'num_beams': [-1, 'x'],
}


@pytest.mark.parametrize('name', WRONG)
def test_settings_out_of_range_are_one_line(name):
    for value in WRONG[name]:
        with pytest.raises(BundleError) as refused:
            generation_settings({name: value}, 1, 512, 'b/generation_config.json')
        line = str(refused.value)
        assert line.startswith(f'b/generation_config.json: {name} is ') and 'want' in line


@pytest.mark.parametrize('content', [
    '', '[]', '{', '{"a": NaN}', '"x"', '{"top_k": 1, "top_k": 2}', '[' * 5000])
def test_files_that_are_none(tmp_path, content):
    (tmp_path / 'generation_config.json').write_text(content)
    with pytest.raises(ModelError) as refused:
        SideFiles.of_model(tmp_path).json('generation_config.json')
    line = str(refused.value)
    assert line.startswith(f'{tmp_path}/generation_config.json: ') and '\n' not in line


def test_a_bundle_with_wrong_settings(tiny_models, tmp_path):
    for number, changed in enumerate(({'repetition_penalty': -1}, {'eos_token_id': '</s>'})):
        folder = with_settings(tiny_models[FAMILIES[0]], tmp_path / f'm{number}', **changed)
        bundle = convert(folder, tmp_path / f'b{number}').path
        with pytest.raises(BundleError, match='generation_config.json: .* want [^\n]+$'):
            Session.open(bundle)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 70) | st.integers() | st.floats()
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=2), max_leaves=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*_CHECKS, *_NOT_DONE, 'top_k', 'other']), ANY, max_size=4))
def test_whatever_stands_there(values):
    """A line, or settings that work on logits: nothing else is raised, at load or later."""
    try:
        made = generation_settings(values, 1, 64, 'f.json')
    except BundleError as error:
        assert str(error).startswith('f.json: ') and '\n' not in str(error)
        return
    prompt = torch.arange(7)[None] % 5
    processors, logits = made.processors(prompt, 4), torch.randn(1, 64)
    for more in range(4):
        known = torch.cat([prompt, torch.full((1, more), 3)], dim=1)
        assert processors(known, logits.clone()).shape == (1, 64)
