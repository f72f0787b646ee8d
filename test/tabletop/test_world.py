# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Scenes and questions: what is drawn is what is asked about, and answers follow from it."""

import numpy as np
import pytest

from neuron_chunk_ros.tabletop.questions import (
    ANSWERS,
    MULTI_VIEW,
    NUMBERS,
    SINGLE_VIEW,
    SceneQuestion,
    ask,
    sample,
)
from neuron_chunk_ros.tabletop.scenes import (
    COLOURS,
    SHAPES,
    Scene,
    Thing,
    random_scene,
    render,
    thing_map,
)


def scene_of(*things):
    return Scene(things, 'plain', ((120, 120, 120), (130, 130, 130)), 5)


def test_the_same_seed_draws_the_same_picture():
    first, second = (render(random_scene(np.random.default_rng(9)), (160, 120)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (120, 160, 3) and first.dtype == np.uint8


@pytest.mark.parametrize('colour', COLOURS)
@pytest.mark.parametrize('shape', [s for s in SHAPES if s != 'ring'])
def test_things_are_drawn_in_their_colour_at_their_place(colour, shape):
    picture = render(scene_of(Thing(colour, shape, 0.3, 0.6, 0.3, 0.0)))
    here = picture[int(0.6 * 480) - 3:int(0.6 * 480) + 3, int(0.3 * 640) - 3:int(0.3 * 640) + 3]
    assert np.abs(here.reshape(-1, 3).mean(axis=0) - COLOURS[colour]).max() < 10
    assert np.abs(picture[40, 600].astype(int) - 120).max() < 10


def test_random_scenes_keep_their_promises():
    rng = np.random.default_rng(1)
    for _ in range(300):
        scene = random_scene(rng)
        names = [t.name for t in scene.things]
        assert 1 <= len(names) <= 4 and len(set(names)) == len(names)
        marks = thing_map(scene, 32)
        assert set(marks[marks > 0]) == set(range(1, len(names) + 1)), 'a thing is hidden'


def answer_by_hand(question: SceneQuestion, scenes: list[Scene]) -> str:
    """Work the answer out a second time, from the words of the question."""
    words = question.text.rstrip('?').split()
    plain = [w if w in SHAPES else w.removesuffix('es') if w == 'crosses' else w.removesuffix('s')
             for w in words]
    pairs = [(a, b) for a, b in zip(words, words[1:], strict=False)
             if a in COLOURS and b in SHAPES]
    things = scenes[0].things
    colours = [w for w in words if w in COLOURS]
    shapes = [w for w in plain if w in SHAPES]

    def find(pair, scene):
        found = [t for t in scene.things if (t.colour, t.shape) == pair]
        return found[0] if found else None

    if question.type == 'colour':
        return next(t.colour for t in things if t.shape == shapes[0])
    if question.type == 'shape':
        return next(t.shape for t in things if t.colour == colours[0])
    if question.type == 'count':
        return NUMBERS[sum((not colours or t.colour == colours[0])
                           and (not shapes or t.shape == shapes[0]) for t in things)]
    if question.type == 'existence':
        return 'yes' if find(pairs[0], scenes[0]) else 'no'
    if question.type == 'quadrant':
        t = find(pairs[0], scenes[0])
        return ('top ' if t.y < .5 else 'bottom ') + ('left' if t.x < .5 else 'right')
    if question.type == 'relation':
        side = question.text.startswith('on which side')
        b, a = (find(p, scenes[0]) for p in (pairs if side else pairs[::-1]))
        if abs(a.x - b.x) > abs(a.y - b.y):
            return 'left' if a.x < b.x else 'right'
        return 'above' if a.y < b.y else 'below'
    views = [find(pairs[0], s) for s in scenes]
    if question.type == 'views':
        return NUMBERS[sum(v is not None for v in views)]
    if question.type == 'which':
        assert sum(v is not None for v in views) == 1
        return NUMBERS[1 + next(i for i, v in enumerate(views) if v)]
    return 'yes' if len({(v.x, v.y) for v in views}) > 1 else 'no'


@pytest.mark.parametrize('kind', [*SINGLE_VIEW, *MULTI_VIEW])
def test_answers_follow_from_the_scenes(kind):
    rng = np.random.default_rng(4)
    seen = set()
    for _ in range(300):
        scenes, question = sample(rng, kind)
        assert question.type == kind and question.answer in ANSWERS
        assert len(scenes) == 1 if kind in SINGLE_VIEW else 2 <= len(scenes) <= 4
        assert question.answer == answer_by_hand(question, scenes), question
        seen.add(question.answer)
    least = {'colour': 8, 'shape': 6, 'count': 4, 'relation': 4, 'quadrant': 4, 'which': 4,
             'views': 5}
    assert len(seen) >= least.get(kind, 2), f'only ever answered {seen}'


def test_doubtful_questions_are_not_asked():
    rng = np.random.default_rng(0)
    near = scene_of(Thing('red', 'circle', 0.5, 0.5, 0.2, 0.0),
                    Thing('blue', 'circle', 0.7, 0.68, 0.2, 0.0))
    assert ask(near, rng, 'quadrant').text.count('blue')
    assert ask(near, rng, 'relation') is None
    assert ask(near, rng, 'colour') is None, 'two circles: which one is meant?'
