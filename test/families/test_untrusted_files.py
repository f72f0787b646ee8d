# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Files beside the weights, which may come from anybody: never code, bounded, one line each."""

import json
import os
import resource
import shutil
import sys
import time

import numpy as np
import pytest

from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import BundleError, ModelError, NeuronChunkError
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.side_files import SideFiles
from neuron_chunk_ros.storage.verify import verify

SETTINGS = ('config.json', 'tokenizer_config.json', 'preprocessor_config.json',
            'processor_config.json', 'generation_config.json', 'video_preprocessor_config.json')
CODE = "open({!r}, 'w').write('code ran')\nclass Class:\n    pass\n"
LOOPS = ('{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}'
         "{{ messages[0]['content'][-1]['text'] }}")
PICTURE = np.full((64, 64, 3), 90, np.uint8)


@pytest.fixture
def bundle(request, tiny_bundles, tmp_path):
    family = getattr(request, 'param', 'tiny-qwen2-vl')
    return shutil.copytree(tiny_bundles[family], tmp_path / 'bundle')


both = pytest.mark.parametrize('bundle', ['tiny-llava-onevision', 'tiny-qwen2-vl'], indirect=True)


def opened(path):
    with Session.open(path) as session:
        return session.model_name


def refused(path):
    """Return the line that opening ends with."""
    with pytest.raises(NeuronChunkError) as caught:
        opened(path)
    assert '\n' not in str(caught.value)
    return str(caught.value)


@both
@pytest.mark.parametrize('listed', [True, False])
def test_code_of_a_bundle_never_runs(bundle, change_side_file, tmp_path, monkeypatch, listed):
    """Also where somebody would say yes to every question."""
    proof = tmp_path / 'proof'
    monkeypatch.setattr(sys, 'stdin', open('/dev/zero'))
    monkeypatch.setattr('builtins.input', lambda *_: 'y')
    (bundle / 'custom.py').write_text(CODE.format(str(proof)))
    maps = {name: 'custom.Class' for name in (
        'AutoConfig', 'AutoTokenizer', 'AutoImageProcessor', 'AutoProcessor',
        'AutoModelForImageTextToText', 'AutoVideoProcessor')}
    maps['AutoTokenizer'] = ['custom.Class', 'custom.Class']
    for name in SETTINGS:
        if not (bundle / name).exists():
            continue
        value = json.loads((bundle / name).read_text()) | {'auto_map': maps}
        if listed:
            change_side_file(bundle, name, json.dumps(value).encode())
        else:
            (bundle / name).write_text(json.dumps(value))
    if listed:
        assert opened(bundle)
    else:
        assert 'checksum differs' in refused(bundle)
    assert not proof.exists()


def test_code_of_a_model_folder_never_runs(tiny_model, tmp_path, monkeypatch):
    proof = tmp_path / 'proof'
    monkeypatch.setattr('builtins.input', lambda *_: 'y')
    (tiny_model / 'custom.py').write_text(CODE.format(str(proof)))
    for name in SETTINGS:
        if (tiny_model / name).exists():
            value = json.loads((tiny_model / name).read_text())
            (tiny_model / name).write_text(json.dumps(value | {'auto_map': {
                'AutoTokenizer': ['custom.Class', None], 'AutoConfig': 'custom.Class',
                'AutoImageProcessor': 'custom.Class'}}))
    bundle = convert(tiny_model, tmp_path / 'bundle')
    assert opened(bundle.path) and not proof.exists()
    assert 'custom.py' not in os.listdir(bundle.path)


@pytest.mark.parametrize('kind', ['fifo', 'zeros', 'outside', 'folder', 'large', 'gone', 'loop'])
@pytest.mark.parametrize('name', ['chat_template.jinja', 'config.json', 'tokenizer.json'])
def test_only_small_regular_files_of_the_folder_are_read(
        tiny_bundles, tmp_path, kind, name, taken):
    bundle = shutil.copytree(tiny_bundles['tiny-qwen2-vl'], tmp_path / 'bundle')
    file, data = bundle / name, (bundle / name).read_bytes()
    file.unlink()
    if kind == 'fifo':
        os.mkfifo(file)
    elif kind == 'zeros':
        file.symlink_to('/dev/zero')
    elif kind == 'outside':
        (tmp_path / 'elsewhere').write_bytes(data)
        file.symlink_to(tmp_path / 'elsewhere')
    elif kind == 'folder':
        file.mkdir()
    elif kind == 'large':
        with open(file, 'wb') as sparse:
            sparse.truncate(300 << 20)
    elif kind == 'loop':
        file.symlink_to(file)
    assert name in refused(bundle)
    assert taken() < 100


def test_files_that_are_not_listed_are_not_used(tiny_bundles, tmp_path):
    """A stranger's file beside a bundle's own changes nothing, and `verify` tells of it."""
    bundle = shutil.copytree(tiny_bundles['tiny-qwen2-vl'], tmp_path / 'bundle')
    (bundle / 'chat_template.json').write_text('{"chat_template": "forged"}')
    (bundle / 'added_tokens.json').write_text('{"forged": 3}')
    (bundle / 'special_tokens_map.json').write_text('[]')
    with Session.open(bundle) as session:
        assert 'forged' not in session._prompts.tokenizer.get_vocab()
        assert 'forged' not in session._prompts.chat('what?', 1)
    assert verify(Bundle.open(bundle)) == []
    assert sorted(SideFiles.unlisted(Bundle.open(bundle))) == [
        'added_tokens.json', 'chat_template.json', 'special_tokens_map.json']


@pytest.mark.parametrize('template, words', [
    (LOOPS, 'takes more than 2 s of processor time'),
    ("{{ 'a' * 10**11 }}{{ messages[0]['content'][-1]['text'] }}", 'MiB of memory'),
    ("{{ 'ab' * 10**6 }}{{ messages[0]['content'][-1]['text'] }}", 'a prompt of over 73728'),
    ('{{ messages[0]["content"].append(1) }}', 'unsafe'),
    ('{{ ().__class__.__base__.__subclasses__() }}', 'unsafe'),
    ('{% include "/etc/passwd" %}', 'no loader'),
    ('{{ what.is.this }}', "'what' is undefined"),
    ('{% for %}', "'end of statement block'"),
    ('no question', 'has a question 0 times'),
    ("{% for m in messages %}{{ m['content'][-1]['text'] * 2 }}{% endfor %}", '2 times'),
    ("{{ raise_exception('roles must alternate') }}", 'roles must alternate'),
    ("<video><|image_pad|>{{ messages[0]['content'][-1]['text'] }}", 'into a prompt with'),
    ('', 'has a question 0 times'),
    ('\xff', 'not UTF-8')])
def test_templates(bundle, change_side_file, template, words):
    change_side_file(bundle, 'chat_template.jinja', template.encode(
        'latin1' if template == '\xff' else 'utf-8'))
    began = time.monotonic()
    line = refused(bundle)
    assert 'chat_template.jinja' in line and words in line
    assert time.monotonic() - began < 30


def test_a_template_is_tried_when_a_model_is_converted(tiny_model, tmp_path):
    (tiny_model / 'chat_template.jinja').write_text('{{ messages[0].content }}')
    with pytest.raises(ModelError, match=r'chat_template\.jinja: .* has a question'):
        convert(tiny_model, tmp_path / 'bundle')
    assert not (tmp_path / 'bundle').exists()


def slow_pattern(value):
    value['pre_tokenizer'] = {'type': 'Split', 'pattern': {'Regex': r'(a|aa)+[bc]'},
                              'behavior': 'Isolated', 'invert': False}


def no_model(value):
    value['model'] = {'type': 'BPE', 'vocab': {}, 'merges': []}


@pytest.mark.parametrize('change', [slow_pattern, no_model, lambda value: value.clear(),
                                    lambda value: value.update(model=None),
                                    lambda value: value.update(added_tokens=[{'id': -1}])])
def test_tokenizers(bundle, change_side_file, change):
    value = json.loads((bundle / 'tokenizer.json').read_text())
    change(value)
    change_side_file(bundle, 'tokenizer.json', json.dumps(value).encode())
    began = time.monotonic()
    assert str(bundle) in refused(bundle)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize('said', ['\u202e', '\x1b[2J', 'a\nb', '\ud800'])
def test_what_files_say_can_be_printed(bundle, change_side_file, said):
    value = json.loads((bundle / 'tokenizer_config.json').read_text())
    change_side_file(bundle, 'tokenizer_config.json',
                     json.dumps(value | {'padding_side': said}).encode())
    line = refused(bundle)
    assert 'padding side' in line.lower() and line.isprintable()
    change_side_file(bundle, 'chat_template.jinja',
                     ('{{ raise_exception(' + ascii(said) + ') }}').encode())
    assert refused(bundle).isprintable()
    change_side_file(bundle, 'chat_template.jinja', b"{{ raise_exception('x' * 10**6) }}")
    assert len(refused(bundle)) < 1000


@pytest.mark.parametrize('changes', [
    {'mrope_section': [2, 3, 65537, 3]}, {'mrope_section': [2, 3]}, {'mrope_section': [-1, 9]}])
def test_a_config_that_only_a_step_fails_with(bundle, change_side_file, changes):
    value = json.loads((bundle / 'config.json').read_text())
    text = value['text_config']
    text[next(key for key in ('rope_scaling', 'rope_parameters') if key in text)] |= changes
    change_side_file(bundle, 'config.json', json.dumps(value).encode())
    with Session.open(bundle) as session:
        for _ in range(2):
            with pytest.raises(BundleError, match=r'config\.json: a step fails with it') as caught:
                session.ask('what?', [np.zeros((64, 64, 3), np.uint8)])
            assert '\n' not in str(caught.value)


@both
def test_a_config_does_not_choose_what_form_outputs_have(bundle, change_side_file):
    value = json.loads((bundle / 'config.json').read_text())
    forms = {'return_dict': False, 'torchscript': True, 'output_attentions': True,
             'output_hidden_states': True}
    with Session.open(bundle) as session:
        want = session.ask('what?', [PICTURE], max_new_tokens=3)
    for part in (value, value['text_config'], value['vision_config']):
        part |= forms
    change_side_file(bundle, 'config.json', json.dumps(value).encode())
    with Session.open(bundle) as session:
        assert session.ask('what?', [PICTURE], max_new_tokens=3).tokens == want.tokens


def test_no_room_for_copies(tiny_bundles, tmp_path, monkeypatch):
    bundle = tiny_bundles['tiny-qwen2-vl']
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'gone'))
    assert 'TMPDIR may name another place' in refused(bundle)
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, allowed[1]))
    try:
        assert 'File too large' in refused(bundle)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert not list(tmp_path.iterdir())


@both
@pytest.mark.slow
@pytest.mark.parametrize('name, changes', [
    ('config.json', {'text_config': {'num_hidden_layers': 4000}}),
    ('config.json', {'text_config': {'hidden_size': 1 << 20}}),
    ('config.json', {'text_config': {'num_attention_heads': 0}}),
    ('config.json', {'text_config': {'head_dim': -3}}),
    ('config.json', {'text_config': {'vocab_size': 3}}),
    ('config.json', {'text_config': {'hidden_act': 'rm -rf'}}),
    ('config.json', {'text_config': {'max_position_embeddings': 1 << 60}}),
    ('config.json', {'text_config': 7}),
    ('config.json', {'text_config': {'initializer_range': -1.0}}),
    ('config.json', {'vision_config': {'initializer_range': -1.0}, 'initializer_range': 'x'}),
    ('config.json', {'vision_config': {'image_size': 1 << 20, 'patch_size': 1}}),
    ('config.json', {'vision_config': {'image_size': 1 << 60}}),
    ('config.json', {'vision_config': {'patch_size': 0, 'num_heads': 0}}),
    ('config.json', {'vision_config': []}),
    ('config.json', {'image_token_id': 1 << 40, 'video_token_id': 1 << 40}),
    ('config.json', {'image_token_id': 'x', 'video_token_id': 'x'}),
    ('config.json', {'model_type': 'llama'}),
    ('preprocessor_config.json', {'min_pixels': 1 << 50, 'max_pixels': 1 << 60}),
    ('preprocessor_config.json', {'size': {'shortest_edge': 1 << 50, 'longest_edge': 1 << 50}}),
    ('preprocessor_config.json', {'patch_size': 0}),
    ('preprocessor_config.json', {'patch_size': 7}),
    ('preprocessor_config.json', {'temporal_patch_size': 1 << 20}),
    ('preprocessor_config.json', {'merge_size': 'x'}),
    ('preprocessor_config.json', {'image_mean': [1, 2]}),
    ('preprocessor_config.json', {'image_std': 'x'}),
    ('video_preprocessor_config.json', {'image_mean': [[[0]]]}),
    ('video_preprocessor_config.json', {'image_std': {'a': 3}}),
    ('tokenizer_config.json', {'tokenizer_class': 'os.system'}),
    ('tokenizer_config.json', {'added_tokens_decoder': {'a': 3}}),
    ('tokenizer_config.json', {'added_tokens_decoder': 5}),
    ('tokenizer_config.json', {'eos_token': 7, 'bos_token': []}),
    ('tokenizer_config.json', {'model_max_length': 'x', 'chat_template': 4}),
    ('generation_config.json', {'eos_token_id': 'x'}),
    ('generation_config.json', {'eos_token_id': [[]]}),
    ('generation_config.json', {'eos_token_id': -(1 << 70)}),
])
def test_settings(bundle, change_side_file, taken, name, changes):
    """Whatever is in them, they are of no effect or named in one line, and take no memory."""
    if not (bundle / name).exists():
        pytest.skip(f'this family has no {name}')
    value = json.loads((bundle / name).read_text())
    for key, change in changes.items():
        nested = isinstance(change, dict) and isinstance(value.get(key), dict)
        value[key] = value[key] | change if nested else change
    change_side_file(bundle, name, json.dumps(value).encode())
    try:
        opened(bundle)
    except NeuronChunkError as error:
        assert str(bundle) in str(error) and '\n' not in str(error)
    assert taken() < 200
