# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Questions about tabletop scenes whose answers follow from the scenes alone.

Six types ask about one view; three ask about two to four views. A question is only made where
its answer is beyond doubt: positions near a border between two answers are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from neuron_chunk_ros.tabletop.scenes import (
    COLOURS,
    SHAPES,
    Scene,
    free_place,
    new_thing,
    random_scene,
    with_things,
)

SINGLE_VIEW = ('colour', 'shape', 'count', 'relation', 'quadrant', 'existence')
MULTI_VIEW = ('which', 'views', 'moved')
NUMBERS = ('zero', 'one', 'two', 'three', 'four')

WORDINGS = {
    'colour': ('what colour is the {shape}?', 'which colour does the {shape} have?'),
    'shape': ('what shape is the {colour} thing?', 'which shape does the {colour} thing have?'),
    'count': ('how many things are there?', 'how many things do you see?'),
    'count_colour': ('how many {colour} things are there?',
                     'how many {colour} things do you see?'),
    'count_shape': ('how many {shape}s are there?', 'how many {shape}s do you see?'),
    'relation': ('on which side of the {b} is the {a}?',
                 'where is the {a} relative to the {b}?'),
    'quadrant': ('where is the {a}?', 'in which corner is the {a}?'),
    'existence': ('is there a {a}?', 'do you see a {a}?'),
    'which': ('which view shows the {a}?', 'in which view is the {a}?'),
    'views': ('how many views show a {a}?', 'in how many views is there a {a}?'),
    'moved': ('did the {a} move?', 'has the {a} moved?'),
}
PLURALS = {'cross': 'crosses'}
ANSWERS = (*COLOURS, *SHAPES, *NUMBERS, 'left', 'right', 'above', 'below',
           'top left', 'top right', 'bottom left', 'bottom right', 'yes', 'no')


@dataclass(frozen=True)
class SceneQuestion:
    """A question of one type, its wording and the one right answer."""

    type: str
    text: str
    answer: str


def _say(rng: np.random.Generator, kind: str, **names: str) -> str:
    wordings = WORDINGS[kind]
    text = wordings[rng.integers(len(wordings))].format(**names)
    for single, plural in PLURALS.items():
        text = text.replace(f'{single}s', plural)
    return text


def _unique(values: list[str]) -> list[int]:
    return [i for i, v in enumerate(values) if values.count(v) == 1]


def _other_kind(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    """Name a (colour, shape) the scene lacks, mostly one whose parts it has."""
    while True:
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        if scene.things and rng.random() < 0.7:
            thing = scene.things[rng.integers(len(scene.things))]
            if rng.random() < 0.5:
                colour = thing.colour
            else:
                shape = thing.shape
        if scene.find(colour, shape) is None:
            return colour, shape


def _colour(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    at = _unique([t.shape for t in scene.things])
    if not at:
        return None
    thing = scene.things[at[rng.integers(len(at))]]
    return SceneQuestion('colour', _say(rng, 'colour', shape=thing.shape), thing.colour)


def _shape(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    at = _unique([t.colour for t in scene.things])
    if not at:
        return None
    thing = scene.things[at[rng.integers(len(at))]]
    return SceneQuestion('shape', _say(rng, 'shape', colour=thing.colour), thing.shape)


def _count(scene: Scene, rng: np.random.Generator) -> SceneQuestion:
    roll = rng.random()
    if roll < 0.4 or not scene.things:
        return SceneQuestion('count', _say(rng, 'count'), NUMBERS[len(scene.things)])
    thing = scene.things[rng.integers(len(scene.things))]
    if roll < 0.7:
        colour = thing.colour if rng.random() < 0.75 else str(rng.choice(list(COLOURS)))
        number = sum(t.colour == colour for t in scene.things)
        return SceneQuestion('count', _say(rng, 'count_colour', colour=colour), NUMBERS[number])
    shape = thing.shape if rng.random() < 0.75 else str(rng.choice(SHAPES))
    number = sum(t.shape == shape for t in scene.things)
    return SceneQuestion('count', _say(rng, 'count_shape', shape=shape), NUMBERS[number])


def _relation(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    pairs = []
    for a in scene.things:
        for b in scene.things:
            dx, dy = a.x - b.x, a.y - b.y
            if a is not b and abs(dx) > max(0.15, 1.8 * abs(dy)):
                pairs.append((a, b, 'left' if dx < 0 else 'right'))
            elif a is not b and abs(dy) > max(0.15, 1.8 * abs(dx)):
                pairs.append((a, b, 'above' if dy < 0 else 'below'))
    if not pairs:
        return None
    a, b, answer = pairs[rng.integers(len(pairs))]
    return SceneQuestion('relation', _say(rng, 'relation', a=a.name, b=b.name), answer)


def _quadrant(scene: Scene, rng: np.random.Generator) -> SceneQuestion | None:
    clear = [t for t in scene.things if abs(t.x - 0.5) > 0.08 and abs(t.y - 0.5) > 0.08]
    if not clear:
        return None
    thing = clear[rng.integers(len(clear))]
    answer = f"{'top' if thing.y < 0.5 else 'bottom'} {'left' if thing.x < 0.5 else 'right'}"
    return SceneQuestion('quadrant', _say(rng, 'quadrant', a=thing.name), answer)


def _existence(scene: Scene, rng: np.random.Generator) -> SceneQuestion:
    if scene.things and rng.random() < 0.5:
        name = scene.things[rng.integers(len(scene.things))].name
        return SceneQuestion('existence', _say(rng, 'existence', a=name), 'yes')
    name = ' '.join(_other_kind(rng, scene))
    return SceneQuestion('existence', _say(rng, 'existence', a=name), 'no')


def _which(scenes: Sequence[Scene], rng: np.random.Generator) -> SceneQuestion | None:
    found = [(view, t) for view, scene in enumerate(scenes) for t in scene.things
             if sum(s.find(t.colour, t.shape) is not None for s in scenes) == 1]
    if not found:
        return None
    view, thing = found[rng.integers(len(found))]
    return SceneQuestion('which', _say(rng, 'which', a=thing.name), NUMBERS[view + 1])


def _views(scenes: Sequence[Scene], rng: np.random.Generator) -> SceneQuestion:
    things = [t for scene in scenes for t in scene.things]
    kinds = sorted({(t.colour, t.shape) for t in things})
    kind = kinds[rng.integers(len(kinds))]
    if rng.random() < 0.15:
        kind = _other_kind(rng, scenes[rng.integers(len(scenes))])
    number = sum(s.find(*kind) is not None for s in scenes)
    return SceneQuestion('views', _say(rng, 'views', a=' '.join(kind)), NUMBERS[number])


def _moved(scenes: Sequence[Scene], rng: np.random.Generator) -> SceneQuestion | None:
    kept = [t for t in scenes[0].things
            if all(s.find(t.colour, t.shape) is not None for s in scenes)]
    if not kept:
        return None
    moved = {t.name: any((s.find(t.colour, t.shape).x, s.find(t.colour, t.shape).y) != (t.x, t.y)
                         for s in scenes[1:]) for t in kept}
    want = rng.random() < 0.5
    pool = [name for name, did in moved.items() if did == want] or list(moved)
    name = pool[rng.integers(len(pool))]
    return SceneQuestion('moved', _say(rng, 'moved', a=name), 'yes' if moved[name] else 'no')


_ASK_ONE = {'colour': _colour, 'shape': _shape, 'count': _count, 'relation': _relation,
            'quadrant': _quadrant, 'existence': _existence}
_ASK_MANY = {'which': _which, 'views': _views, 'moved': _moved}


def ask(scenes: Scene | Sequence[Scene], rng: np.random.Generator,
        kind: str) -> SceneQuestion | None:
    """Make a question of this type, None where these scenes leave its answer in doubt.

    :param scenes: one scene for the types in SINGLE_VIEW, two to four for those in MULTI_VIEW.
    """
    if kind in _ASK_ONE:
        return _ASK_ONE[kind](scenes if isinstance(scenes, Scene) else scenes[0], rng)
    return _ASK_MANY[kind](scenes, rng)


def scenes_for(rng: np.random.Generator, kind: str, views: int | None = None) -> list[Scene]:
    """Draw the scenes a question of this type is asked about: one, or two to four views.

    `moved` shows one table over time, the other multi-view types several tables that share
    some things.
    """
    if kind in SINGLE_VIEW:
        return [random_scene(rng)]
    views = int(rng.integers(2, 5)) if views is None else views
    if kind == 'moved':
        scenes = [random_scene(rng, int(rng.integers(1, 4)))]
        leaves = {t.name: int(rng.integers(1, views)) for t in scenes[0].things
                  if rng.random() < 0.5}
        for view in range(1, views):
            scenes.append(_next_frame(scenes[-1], rng,
                                      {n for n, when in leaves.items() if when == view}))
        return scenes
    scenes = [random_scene(rng, int(rng.integers(1, 4))) for _ in range(views)]
    shared = scenes[0].things[0]
    for view in range(1, views):
        if rng.random() < 0.5 and scenes[view].find(shared.colour, shared.shape) is None:
            things = list(scenes[view].things[:2])
            things.append(new_thing(rng, things, (shared.colour, shared.shape)))
            scenes[view] = with_things(scenes[view], things)
    return scenes


def _next_frame(scene: Scene, rng: np.random.Generator, moving: set[str]) -> Scene:
    """Return the same table a moment later: things named in `moving` lie clearly elsewhere."""
    things = list(scene.things)
    for i, thing in enumerate(things):
        if thing.name not in moving:
            continue
        others = things[:i] + things[i + 1:]
        x, y = thing.x, thing.y
        while abs(x - thing.x) + abs(y - thing.y) < 0.25:
            x, y = free_place(rng, thing.size, others)
        things[i] = replace(thing, x=x, y=y)
    # Sensor noise differs from frame to frame, the table's texture does not; keeping the seed
    # keeps both, and a per-frame seed would move the stripes.
    return with_things(scene, things)


def sample(rng: np.random.Generator, kind: str) -> tuple[list[Scene], SceneQuestion]:
    """Draw fresh scenes and a question of this type about them."""
    while True:
        scenes = scenes_for(rng, kind)
        question = ask(scenes, rng, kind)
        if question is not None:
            return scenes, question
