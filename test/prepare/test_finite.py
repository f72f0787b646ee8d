# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Weights that are NaN or infinite: counted and refused, wherever they lie, in every dtype."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.finite import count_not_finite
from neuron_chunk_ros.storage.verify import verify

PLACES = {
    'decoder': 'model.layers.2.mlp.down_proj.weight',
    'bias': 'model.layers.0.self_attn.q_proj.bias',
    'embedding': 'model.embed_tokens.weight', 'norm': 'model.norm.weight',
    'tower': 'visual.blocks.0.attn.qkv.weight', 'head': 'lm_head.weight',
}
TYPES = {'BF16': torch.bfloat16, 'F16': torch.float16, 'F32': torch.float32}


@given(st.sampled_from(sorted(TYPES)), st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_the_count_is_torchs(tag, bits):
    """Of any bit patterns: subnormals, the largest finite ones, NaNs of all sorts."""
    bits += [0x7F7FFFFF, 0x7F800000, 0xFF800001, 0x7BFF7BFF, 0x7C00FC01, 1]
    raw = torch.tensor(bits, dtype=torch.uint32).view(TYPES[tag])
    assert count_not_finite(np.array(bits, np.uint32).view(np.uint8), tag) == int(
        (~raw.isfinite()).sum())


def with_values(source, target, dtype, **values):
    """Copy a model folder, some values of tensors changed; return the folder."""
    shutil.copytree(source, target)
    tensors = {name: value.to(dtype) for name, value in load_file(
        target / 'model.safetensors').items()}
    if 'head' in values:
        tensors.setdefault(PLACES['head'], tensors[PLACES['embedding']].clone())
    for place, (value, count) in values.items():
        tensors[PLACES[place]].view(-1)[-count:] = value
    save_file(tensors, target / 'model.safetensors')
    return target


@pytest.fixture(scope='module')
def source(tiny_models):
    return tiny_models['tiny-qwen2-vl']


@pytest.fixture
def untied(source, tmp_path):
    folder = shutil.copytree(source, tmp_path / 'untied')
    config = (folder / 'config.json').read_text()
    (folder / 'config.json').write_text(config.replace('"tie_word_embeddings": true',
                                                       '"tie_word_embeddings": false'))
    return folder


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
def test_convert_refuses_with_number_and_name(untied, tmp_path, place, value):
    for dtype in TYPES.values():
        model = with_values(untied, tmp_path / f'm-{dtype}', dtype, **{place: (value, 3)})
        with pytest.raises(ModelError) as refused:
            convert(model, tmp_path / 'b')
        line = str(refused.value)
        assert line.startswith(f'{model}: 3 weights are NaN or infinite, the first in model.') \
            or place == 'head' and 'the first in lm_head.weight' in line
        assert PLACES[place].rpartition('.layers.')[2].rpartition('.')[0] in line or place in (
            'tower', 'norm', 'embedding')
        assert '--allow-non-finite' in line and not (tmp_path / 'b').exists()


@pytest.mark.parametrize('options', [{}, {'dtype': 'bfloat16'}, {'rows': 'int8'},
                                     {'rows': 'int8', 'base': 4}, {'rows': 'int8', 'base_mb': 1}])
def test_all_are_counted_before_anything_is_written(untied, tmp_path, options):
    model = with_values(untied, tmp_path / 'm', torch.float32, decoder=(float('nan'), 2),
                        norm=(float('inf'), 1), head=(float('nan'), 4))
    with pytest.raises(ModelError, match=': 7 weights are NaN or infinite, the first in '):
        convert(model, tmp_path / 'b', **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['m', 'untied']


def test_allowed_they_are_kept(untied, tmp_path):
    model = with_values(untied, tmp_path / 'm', torch.float32, decoder=(float('nan'), 2),
                        norm=(float('-inf'), 1))
    bundle = convert(model, tmp_path / 'b', allow_non_finite=True)
    assert verify(bundle) == []
    with pytest.raises(ModelError, match='down.*not finite has no int8'):
        convert(model, tmp_path / 'c', rows='int8', allow_non_finite=True)
    assert not (tmp_path / 'c').exists()


def test_at_the_command_line(untied, tmp_path, capsys):
    from PIL import Image
    (tmp_path / 'pictures').mkdir()
    Image.new('RGB', (60, 40), 'red').save(tmp_path / 'pictures' / 'a.png')
    model = with_values(untied, tmp_path / 'm', torch.float32, decoder=(float('nan'), 2))

    def run(*command):
        status = main([str(part) for part in command])
        return status, capsys.readouterr().err
    more = ('--images', tmp_path / 'pictures')
    for command in (('convert', model, tmp_path / 'b'),
                    ('compress', model, tmp_path / 'b', '--recipe', 'int8', *more),
                    ('compress', model, tmp_path / 'b', '--recipe', 'fixed-point', *more)):
        status, told = run(*command)
        assert status == 1 and told.count('\n') == 1 and '2 weights are NaN or infinite' in told
    assert run('convert', model, tmp_path / 'bundle', '--allow-non-finite')[0] == 0
    status, told = run('compress', tmp_path / 'bundle', tmp_path / 'b', '--recipe', 'int8', *more)
    assert status == 1
    assert ': 2 weights are NaN or infinite, the first in group layers.2.down' in told
    for source in (model, tmp_path / 'bundle'):  # there are no integers for such weights
        status, told = run('compress', source, tmp_path / 'b', '--recipe', 'int8', *more,
                           '--allow-non-finite')
        assert status == 1 and told.count('\n') == 1 and 'finite' in told
    assert not (tmp_path / 'b').exists()
