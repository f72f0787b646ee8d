# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Classes of heads: heads made to look at one image or at all get the class that says so."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from neuron_chunk_ros.attention.templates import DENSE, INTRA, INTRA_SINK, NAMES, SINK
from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.prepare.characterize import (
    Heard,
    characterize,
    classes_of,
    drift,
    hear,
    tolerances,
)
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.storage.bundle import Bundle

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')


def prompts(count=4, views=(2, 3)):
    rng = np.random.default_rng(count)
    return [(f'what is in view {number}?',
             [rng.integers(0, 256, (70, 90, 3), np.uint8) for _ in range(views[number % 2])])
            for number in range(count)]


@pytest.fixture
def copy(tiny_bundles, tmp_path):
    return shutil.copytree(tiny_bundles['tiny-llava-onevision'], tmp_path / 'copy')


def heard(errors):
    """Errors by template of one head on each prompt."""
    errors = np.array(errors, np.float32)[:, None, None, :]
    return Heard(errors, np.array([1.0, 0.4, 0.3, 0.1]), torch.zeros(len(errors), 2))


@pytest.mark.parametrize('errors, want', [
    ([[0, .2, .2, .2]], DENSE), ([[0, .05, .2, .2]], INTRA_SINK), ([[0, .05, .05, .2]], INTRA),
    ([[0, .2, .2, .05]], SINK), ([[0, .05, .05, .05]], SINK),
    ([[0, .05, .2, .2]] * 9 + [[0, .2, .2, .2]], INTRA_SINK),   # nine of ten are enough
    ([[0, .05, .2, .2]] * 8 + [[0, .2, .2, .2]] * 2, DENSE)])
def test_the_sparsest_that_is_good_on_nearly_all(errors, want):
    assert classes_of(heard(errors), 0.1, 'constant') == [[want]]


def test_schedules():
    for layers in (1, 2, 28):
        assert tolerances(0.3, 'constant', layers) == pytest.approx([0.3] * layers)
        rising = tolerances(0.3, 'linear', layers)
        assert rising.mean() == pytest.approx(0.3) and (np.diff(rising) > 0).all()


def test_a_head_that_looks_at_nothing_else_is_found(tiny_models, tmp_path):
    """Values of the last head are nothing but its own token's; the first looks at all alike."""
    source = tmp_path / 'model'
    shutil.copytree(tiny_models['tiny-llava-onevision'], source)
    weights = load_file(source / 'model.safetensors')
    names = [name for name in weights if '.layers.1.self_attn.' in name and 'language' in name]
    width = 16
    for name in names:
        if name.endswith(('q_proj.weight', 'q_proj.bias')):
            weights[name][:width] = 0           # head 0: every key is as good
    save_file(weights, source / 'model.safetensors', {'format': 'pt'})
    bundle = convert(source, tmp_path / 'bundle').path
    with Session.open(bundle, drafts=False) as session:
        found = hear(session, prompts(6), lambda: None)
    assert found.errors.shape == (6, 3, 4, len(NAMES))
    assert (found.errors[..., DENSE] == 0).all()
    assert found.errors[:, 1, 0, INTRA].min() > 0.05     # it does look at other images
    made = classes_of(found, 0.05, 'constant')
    assert made[1][0] == DENSE
    # images of a few tokens: all that is local to a sink head, and the sinks
    assert classes_of(found, 1e9, 'constant') == [[INTRA] * 4] * 3


@pytest.mark.parametrize('family', FAMILIES)
def test_the_drift_asked_for_is_kept(tiny_bundles, tmp_path, family):
    path = shutil.copytree(tiny_bundles[family], tmp_path / 'copy')
    told = []
    drifts, densities = [], []
    for most in (1e-9, 1e-4, 10.0):
        written = characterize(path, prompts(), most_drift=most, schedule='linear',
                               progress=lambda done, total: told.append((done, total)))
        about = written['about']
        assert about['drift'] <= most and Bundle.open(path).attention == written
        drifts.append(about['drift'])
        densities.append(about['density'])
        with Session.open(path, drafts=False) as session:
            assert session.attention == 'dense'
            again = hear(session, prompts(), lambda: None)
            assert drift(session, prompts(), again, written['heads'],
                         lambda: None) == pytest.approx(about['drift'], rel=0.01, abs=1e-7)
            assert session.attention == 'dense' and session._attending.listener is None
    assert drifts == sorted(drifts) and densities == sorted(densities, reverse=True)
    assert densities[-1] < 0.96
    assert all(0 < done <= total for done, total in told) and told[-1][0] == told[-1][1]


def test_nothing_changes_where_it_ends_early(copy):
    before = (copy / 'bundle.json').read_bytes()

    def stop(done, total):
        if done == 6:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        characterize(copy, prompts(), progress=stop)
    for given, message in ((prompts(1, (1, 1)), 'two images or more'), ([], 'two images or more')):
        with pytest.raises(RequestError, match=message):
            characterize(copy, given)
    with pytest.raises(ValueError, match="schedule is 'steep'"):
        characterize(copy, prompts(), schedule='steep')
    assert (copy / 'bundle.json').read_bytes() == before


def test_at_the_command_line(copy, tmp_path, capsys):
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    for number, (_, images) in enumerate(prompts(4)):
        Image.fromarray(images[0]).save(pictures / f'{number}.png')
    assert main(['attention', 'show', str(copy)]) == 1
    assert 'attention characterize' in capsys.readouterr().err
    run = ['attention', 'characterize', str(copy)]
    assert main([*run, '--images', str(pictures), '--samples', '4', '--counts', '2,3',
                 '--tolerance', '0.2']) == 0
    assert 'of 12 heads' in capsys.readouterr().out
    figure = tmp_path / 'heads.png'
    assert main(['attention', 'show', str(copy), '--figure', str(figure)]) == 0
    said = capsys.readouterr().out
    assert said.count('layer') == 3 and 'tolerance 0.2' in said and 'images [2, 3]' in said
    assert figure.stat().st_size > 1000
    lines = [{'prompt': 'which?', 'images': ['pictures/0.png', 'pictures/1.png']},
             {'prompt': 'one?', 'images': ['pictures/0.png']}]
    file = tmp_path / 'questions.jsonl'
    file.write_text('\n'.join(map(json.dumps, lines)))
    assert main([*run, '--prompts', str(file), '--drift', '0.5']) == 0
    assert '1 prompts' in capsys.readouterr().out
    assert main(['attention', 'show', str(copy), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['about']['prompts'] == 1
    for arguments, message in (
            ([], 'give --images DIR, or --prompts FILE'),
            (['--images', str(tmp_path / 'none')], 'no such folder'),
            (['--prompts', str(figure)], 'not JSON lines'),
            (['--prompts', str(tmp_path / 'none.jsonl')], 'not JSON lines')):
        assert main([*run, *arguments]) == 1
        assert message in capsys.readouterr().err
