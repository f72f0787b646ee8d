# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Tabletop scenes: one to four coloured shapes on a textured table, drawn at any size.

Positions are fractions of the image, x to the right and y down; sizes are fractions of its
height. Everything random comes from the generator passed in, so a seed fixes a scene.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    'red': (205, 35, 35),
    'green': (30, 150, 55),
    'blue': (35, 75, 205),
    'yellow': (240, 215, 40),
    'purple': (140, 45, 165),
    'orange': (240, 130, 25),
    'white': (248, 248, 248),
    'black': (18, 18, 18),
}
SHAPES = ('circle', 'square', 'triangle', 'star', 'cross', 'ring')
BACKGROUNDS = ('plain', 'stripes', 'checkers', 'shade')
MAX_THINGS = 4
_SUPERSAMPLE = 2


@dataclass(frozen=True)
class Thing:
    """One coloured shape; (x, y) is its centre, size its diameter, turn its rotation [rad]."""

    colour: str
    shape: str
    x: float
    y: float
    size: float
    turn: float

    @property
    def name(self) -> str:
        """How questions call it."""
        return f'{self.colour} {self.shape}'


@dataclass(frozen=True)
class Scene:
    """What one camera sees. No two things share both colour and shape."""

    things: tuple[Thing, ...]
    background: str
    tones: tuple[tuple[int, int, int], tuple[int, int, int]]
    texture_seed: int

    def find(self, colour: str, shape: str) -> Thing | None:
        """Return the thing of this colour and shape, None where there is none."""
        return next((t for t in self.things if (t.colour, t.shape) == (colour, shape)), None)


def free_place(rng: np.random.Generator, size: float, taken: list[Thing]) -> tuple[float, float]:
    """Pick a centre inside the image and clear of the things already there."""
    for _ in range(200):
        x = rng.uniform(size * 0.42, 1 - size * 0.42)
        y = rng.uniform(size * 0.55, 1 - size * 0.55)
        if all(math.hypot((x - t.x) * 4 / 3, y - t.y) > 0.62 * (size + t.size) for t in taken):
            return x, y
    raise RuntimeError('no free place left: the things are too large for the table')


def _tones(rng: np.random.Generator) -> tuple:
    base = rng.uniform(85, 165) + rng.uniform(-18, 18, 3)
    other = base + rng.uniform(-28, 28) + rng.uniform(-6, 6, 3)
    return tuple(tuple(int(v) for v in np.clip(c, 60, 190)) for c in (base, other))


def new_thing(rng: np.random.Generator, taken: list[Thing], kind: tuple[str, str] | None = None):
    """Return a thing that fits beside `taken`, of the given (colour, shape) or a free one."""
    names = {(t.colour, t.shape) for t in taken}
    while kind is None or kind in names:
        # Sharing a colour or a shape with a neighbour is what makes questions hard.
        colour = rng.choice(list(COLOURS))
        shape = rng.choice(SHAPES)
        if taken and rng.random() < 0.3:
            colour = taken[rng.integers(len(taken))].colour
        elif taken and rng.random() < 0.3:
            shape = taken[rng.integers(len(taken))].shape
        kind = (str(colour), str(shape))
    size = rng.uniform(0.2, 0.3)
    x, y = free_place(rng, size, taken)
    return Thing(*kind, x, y, size, rng.uniform(-0.22, 0.22))


def random_scene(rng: np.random.Generator, things: int | None = None) -> Scene:
    """Draw a scene of `things` things (1 to 4, random where None)."""
    count = int(rng.integers(1, MAX_THINGS + 1)) if things is None else things
    placed: list[Thing] = []
    while len(placed) < count:
        placed.append(new_thing(rng, placed))
    return Scene(tuple(placed), str(rng.choice(BACKGROUNDS)), _tones(rng),
                 int(rng.integers(1 << 31)))


def with_things(scene: Scene, things: list[Thing]) -> Scene:
    """Return the same table with other things on it."""
    return replace(scene, things=tuple(things))


def _outline(thing: Thing, width: int, height: int) -> list[tuple[float, float]]:
    """Corner points [pixels] of the straight-edged shapes."""
    if thing.shape == 'square':
        unit = [(-.8, -.8), (.8, -.8), (.8, .8), (-.8, .8)]
    elif thing.shape == 'triangle':
        unit = [(0, -1), (.95, .75), (-.95, .75)]
    elif thing.shape == 'star':
        unit = [(r * math.sin(k * math.pi / 5), -r * math.cos(k * math.pi / 5))
                for k, r in enumerate([1.08, 0.42] * 5)]
    else:
        a = 0.3
        unit = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a),
                (-1, a), (-1, -a), (-a, -a)]
    c, s = math.cos(thing.turn), math.sin(thing.turn)
    radius = thing.size * height / 2
    x, y = thing.x * width, thing.y * height
    return [(x + radius * (u * c - v * s), y + radius * (u * s + v * c)) for u, v in unit]


def _draw(draw: ImageDraw.ImageDraw, thing: Thing, width: int, height: int, fill) -> None:
    if thing.shape in ('circle', 'ring'):
        cx, cy, r = thing.x * width, thing.y * height, thing.size * height / 2 * 0.95
        box = (cx - r, cy - r, cx + r, cy + r)
        if thing.shape == 'circle':
            draw.ellipse(box, fill=fill)
        else:
            draw.ellipse(box, outline=fill, width=max(1, round(r * 0.42)))
    else:
        draw.polygon(_outline(thing, width, height), fill=fill)


def _table(scene: Scene, width: int, height: int) -> np.ndarray:
    """Background, uint8 [height, width, 3]."""
    first, second = (np.asarray(t, np.float32) for t in scene.tones)
    rng = np.random.default_rng(scene.texture_seed)
    x = np.arange(width, dtype=np.float32)[None, :] / height
    y = np.arange(height, dtype=np.float32)[:, None] / height
    if scene.background == 'plain':
        mix = np.zeros((height, width), np.float32)
    elif scene.background == 'shade':
        angle = rng.uniform(0, 2 * math.pi)
        mix = np.clip((x * math.cos(angle) + y * math.sin(angle)) * 0.5 + 0.5, 0, 1)
    else:
        period = rng.uniform(0.12, 0.3)
        mix = np.floor(x / period) + np.floor(y / period) * (scene.background == 'checkers')
        mix = mix % 2
    return (first + mix[..., None] * (second - first)).astype(np.uint8)


def render(scene: Scene, size: tuple[int, int] = (640, 480)) -> np.ndarray:
    """Draw the scene as a camera would see it.

    :param size: (width, height) in pixels.
    :return: uint8 array [height, width, 3], RGB.
    """
    width, height = size
    table = Image.fromarray(_table(scene, width, height))
    image = table.resize((width * _SUPERSAMPLE, height * _SUPERSAMPLE), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    for thing in scene.things:
        _draw(draw, thing, *image.size, fill=COLOURS[thing.colour])
    pixels = np.asarray(image.reduce(_SUPERSAMPLE), np.int16)
    rng = np.random.default_rng(scene.texture_seed + 1)
    noise = rng.integers(-8, 9, (height, width, 1), np.int16)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def thing_map(scene: Scene, grid: int, detail: int = 8) -> np.ndarray:
    """Which thing fills each cell of a grid over the image (training's patch labels).

    :return: int64 [grid, grid]; 0 where less than a quarter of the cell is covered, else the
        1-based index of the thing covering most of it.
    """
    side = grid * detail
    # Drawn with the camera's aspect, then squashed to a square as the image processor does.
    mask = Image.new('P', (side * 4 // 3, side), 0)
    draw = ImageDraw.Draw(mask)
    for index, thing in enumerate(scene.things, start=1):
        _draw(draw, thing, side * 4 // 3, side, fill=index)
    labels = np.asarray(mask.resize((side, side), Image.Resampling.NEAREST))
    cells = labels.reshape(grid, detail, grid, detail)
    cover = np.stack([(cells == k).mean(axis=(1, 3)) for k in range(1, len(scene.things) + 1)])
    best = cover.argmax(axis=0)
    return np.where(cover.max(axis=0) >= 0.25, best + 1, 0)
