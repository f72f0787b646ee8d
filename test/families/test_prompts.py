# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts cut at their images: the pieces are the whole, whatever the chat template looks like."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.families import family_for, prompt_builder
from neuron_chunk_ros.storage.side_files import SideFiles
from neuron_chunk_ros.tabletop.shipped import bundle_dir, model_dir

HEAD = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% set images = m['content'] | rejectattr('type', 'equalto', 'text') | list %}")
TAIL = ("{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
TEXTS = "{% for p in m['content'] if p['type'] == 'text' %}{{ '\n' + p['text'] }}{% endfor %}"
TEMPLATES = {
    # all images first, then a line of its own: two line ends in a row, one token of some models
    'lines': HEAD + "{% for p in images %}{{ IMAGE + '\n' }}{% endfor %}" + TEXTS + TAIL,
    'numbers': HEAD + ("{% for p in images %}{{ 'Picture ' + loop.index|string + ': ' + IMAGE + "
                       "'\n' }}{% endfor %}") + TEXTS + TAIL,
    'line ahead': HEAD + "{% for p in images %}{{ '\n' + IMAGE }}{% endfor %}" + TEXTS + TAIL,
    'stripped': (HEAD + "{% for p in images %}{{ IMAGE + '\n' }}{% endfor %}" + TEXTS + TAIL
                 ).replace("p['text']", "p['text'] | trim"),
}
COUNTING = HEAD + '{{ images | length }} pictures{% for p in images %}{{ IMAGE }}{% endfor %}'


def builder_of(folder):
    config = json.loads((Path(folder) / 'config.json').read_text())
    return prompt_builder(config['model_type'], SideFiles.of_model(folder),
                          family_for(config).config(config))


def with_template(folder, template):
    """Return the builder of a model whose folder is given another chat template."""
    llava = 'llava_onevision' in (folder / 'config.json').read_text()
    image = '<video>' if llava else '<|vision_start|><|image_pad|><|vision_end|>'
    (folder / 'chat_template.jinja').write_text(template.replace('IMAGE', repr(image)))
    return builder_of(folder)


def pictures(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (60 + 30 * i, 90, 3), np.uint8) for i in range(count)]


def pieces(builder, prompt, images, names):
    """Return all pieces of a prompt as a stream would make them."""
    made, trail = [builder.prefix()], ''
    for number, (image, name) in enumerate(zip(images, names, strict=True)):
        made.append(builder.frame(builder.encode([image]), name, number, trail))
        trail = made[-1].trail
    return [*made, builder.suffix(prompt, trail)]


def check(builder, count):
    images = pictures(count)
    for prompt in ('what is there?', '  two\n\nlines  '):
        for names in ([''] * count, [f'camera {i}' for i in range(count)]):
            made = pieces(builder, prompt, images, names)
            ids = sum((piece.ids[0].tolist() for piece in made), [])
            whole = builder.build(prompt, images, names)
            assert ids == whole['input_ids'][0].tolist()
            if not any(names):
                text = builder.chat(prompt, count)
                plain = builder.tokenizer.encode(text, add_special_tokens=False)
                assert [i for i in ids if i not in builder.visual_ids] == [
                    i for i in plain if i not in builder.visual_ids]
            for piece in made[1:-1]:
                assert int(piece.visual.sum()) == sum(
                    i in builder.visual_ids for i in piece.ids[0].tolist()) > 1
                # Nothing of a frame stays behind when it leaves: its image is opened and closed
                # in its own piece.
                assert piece.ids[0, -1].item() in builder.tokenizer.get_added_vocab().values()
            for name, value in whole.items():
                if 'pixel' in name or 'grid' in name:
                    parts = np.concatenate([piece.pixels[name] for piece in made[1:-1]])
                    np.testing.assert_array_equal(parts, value)
    builder.check_pieces()


@pytest.mark.parametrize('count', [1, 3])
def test_shipped_templates(tiny_model, count):
    check(builder_of(tiny_model), count)
    check(builder_of(model_dir()), count)


@pytest.mark.parametrize('template', TEMPLATES)
def test_other_templates(tiny_model, template):
    check(with_template(tiny_model, TEMPLATES[template]), 3)


def test_a_template_that_can_not_be_cut(tiny_model):
    builder = with_template(tiny_model, COUNTING + TEXTS + TAIL)
    builder.build('what?', pictures(2))
    with pytest.raises(ModelError, match="can't be cut at its images"):
        builder.check_pieces()
    with pytest.raises(ModelError, match="can't be cut at its images"):
        builder.build('what?', pictures(2), ['a', 'b'])


def test_names_come_ahead_of_their_image(tiny_model):
    builder = builder_of(tiny_model)
    ids = builder.build('which?', pictures(2), ['front', 'rear'])['input_ids'][0]
    text = builder.tokenizer.decode(ids)
    start = text.index('front: ')
    image = text.index(builder.placeholder)
    assert start < image < text.index('rear: ') < text.rindex(builder.placeholder)
    assert 'front: ' not in builder.tokenizer.decode(
        builder.build('which?', pictures(2), ['', 'rear'])['input_ids'][0])


def test_names_that_can_not_be_said(tiny_model):
    builder = builder_of(tiny_model)
    assert builder.can_say('front left') and builder.can_say('kamera 向前')
    plain = builder.build('which?', pictures(1))['input_ids']
    for token in (builder.placeholder, '<|im_end|>'):
        assert not builder.can_say(f'a {token}')
        assert builder.build('which?', pictures(1), [token])['input_ids'].equal(plain)


def test_the_tabletop_model_numbers_its_views_and_has_few_words():
    """A new frame takes the lowest number that no kept frame has."""
    with Session.open(bundle_dir()) as session:
        assert not session.can_say('front') and not session.can_say('camera_1')
        stream = session.stream(window=2, cameras=2)
        rng = np.random.default_rng(0)
        numbers = []
        for camera in 'abaabba':
            stream.append(rng.integers(0, 256, (64, 64, 3), np.uint8), camera=camera, name=camera)
            numbers.append([segment.number for segment in stream._segments[1:]])
        assert numbers == [[0], [0, 1], [0, 1, 2], [1, 2, 0], [1, 2, 0, 3], [2, 0, 3, 1],
                           [0, 3, 1, 2]]
        views = session._prompts._frame_text('a', 1, '')[0]
        assert ''.join(views) == 'view two <|vision_start|><video><|vision_end|>'


def test_a_stream_refuses_what_can_not_be_cut(tiny_bundles, tmp_path, change_side_file):
    bundle = tmp_path / 'bundle'
    shutil.copytree(tiny_bundles['tiny-llava-onevision'], bundle)
    change_side_file(bundle, 'chat_template.jinja',
                     (COUNTING + TEXTS + TAIL).replace('IMAGE', "'<video>'").encode())
    with Session.open(bundle) as session:
        with pytest.raises(ModelError, match="can't be cut"):
            session.stream(window=1)
        assert session.ask('what?', pictures(2), max_new_tokens=2).tokens
