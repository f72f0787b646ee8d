# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Recipes: what comes along is valid, every fault is named with its line and key."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.compress import algorithms, recipe
from neuron_chunk_ros.errors import RecipeError

GOOD = Path(__file__).with_name('every_key.yaml').read_text().partition('\n\n')[2]


def test_what_comes_along_is_valid():
    assert {'int8', 'int4'} <= set(recipe.shipped())
    for name in recipe.shipped():
        loaded = recipe.load(name)
        assert loaded.name == name and loaded.rule('model.language_model.layers.3.mlp.down_proj')


def test_everything_is_read():
    read = recipe.parse(GOOD)
    assert (read.samples, read.seed, read.smooth, read.memory_bits) == (5, 7, 0.5, 64)
    assert (read.fixed_point.word, read.fixed_point.fraction) == (24, 18)
    assert read.exports == ('mem', 'header')
    down, other = read.rule('model.layers.0.mlp.down_proj'), read.rule('lm_head')
    assert (down.weights.grid.bits, down.weights.grid.shared) == (8, 'row')
    assert down.weights.quantiser.share == 0.99 and down.pruner is None
    assert (other.weights.grid.bits, other.weights.grid.shared) == (4, 64)
    assert (other.pruner.n, other.pruner.m) == (2, 4)


@pytest.mark.parametrize('old, new, where', [
    ('bits: 8, group: row', 'bits: 9, group: row', '4: bits: want a whole number from 2 to 8'),
    ('bits: 8, group: row', 'bits: "8", group: row', '4: bits: want a whole number'),
    ('group: 64', 'group: 63', "7: group: group 63: want 'tensor', .* or one of 16, 32, 64, 128"),
    ('group: 64', 'group: 256', '7: group: group 256'),
    ('name: percentile, share: 0.99', 'name: percentile, share: 2', '4: quantiser: .*share 2'),
    ('name: percentile, share: 0.99', 'name: percentile, part: 1', 'takes no part .it takes: sha'),
    ('name: percentile, share: 0.99', 'name: best', "4: quantiser: .*'best' is not one of .*mse"),
    ('name: "n:m", n: 2', 'name: "n:m", n: 5', '9: pruner: .*5 of 4'),
    ('samples: 5', 'samples: 0', '10: samples: '),
    ('samples: 5', 'simples: 5', '10: simples: is not known'),
    ('word: 24', 'word: 33', '12: word: '),
    ('fraction: 18', 'fraction: 24', '12: fraction: '),
    ('[mem, header]', '[mem, heder]', "13: exports: 'heder' is not one of mem"),
    ('[mem, header]', 'mem', '13: exports: want a list'),
    ('memory_bits: 64', 'memory_bits: 60', '14: memory_bits: 60 is no multiple'),
    ('memory_bits: 64', 'memory_bits: 64\nname: x', "15: recipe: key 'name'"),
    ('name: mine\n', '', '1: name: '),
    ('smooth: 0.5', 'smooth: [1]', '11: smooth: want one value'),
    ('    activations: {bits: 8}\n', '', 'fixed_point: every rule needs'),
    ('fixed_point: {word: 24, fraction: 18}\n', '', '12: exports: .*fixed_point alone'),
    ('fixed_point: {word: 24, fraction: 18}\nexports: [mem, header]\n', '',
     '11: smooth: only with fixed_point'),
    ('smooth: 0.5\nfixed_point: {word: 24, fraction: 18}\nexports: [mem, header]\n', '',
     '2: layers: only with fixed_point'),
    ('layers:\n', 'layers: {a: 1}\nother:\n', '2: layers: want a list'),
    ('calibration: {', 'calibration: {{', r'\d+: '),
    ('name: mine', 'name: [&a [*a]]', '1: '),
    ('layers:\n', 'layers:\n  - "\ufeff": 1\n', r'3: \\ufeff: is not known'),
    ('layers:\n', 'layers:\n  - "\\e[2J": 1\n', r'3: \\x1b\[2J: is not known'),
    ('samples: 5', f'samples: {"x" * 5000}', '10: samples: .{200,300}[.]{3}$'),
    ('samples: 5', f'samples: *{"x" * 5000}', '10: found undefined alias .{200,300}[.]{3}$'),
    ('samples: 5', f'samples: {"[" * 3000}', '10: brackets are nested too deeply'),
    ('samples: 5', 'samples: !!timestamp x', '10: samples: want a whole number'),
    ('samples: 5', 'samples: !!bool x', '10: samples: want a whole number'),
    ('samples: 5', 'samples: !!int ""', '10: samples: want a whole number'),
    ('group: 64', 'base: 7', '7: base: want a whole number from 2 to 4'),
    ('bits: 4, group: 64', 'bits: 5, base: 4', '7: base: 5 bits with a base of 4'),
    ('bits: 4, group: 64', 'bits: 8, base: 2, group: 32', '7: base: 8 bits with a base of 2'),
    ('bits: 4, group: 64', 'bits: 8, base: 4', 'integers on a chip have no base'),
])
def test_every_fault_has_its_line_and_key(old, new, where):
    assert GOOD.count(old) == 1, old
    with pytest.raises(RecipeError, match=f'^mine.yaml:{where}' if where[0] in '0123456789\\'
                       else f'^mine.yaml.*{where}'):
        recipe.parse(GOOD.replace(old, new), 'mine.yaml')


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_nothing_else_is_raised(data):
    """Lines lost, doubled, cut and filled with noise."""
    lines = GOOD.splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = data.draw(st.sampled_from([
            '', lines[at] * 2, lines[at][:len(lines[at]) // 2], lines[0],
            data.draw(st.text(max_size=20)), '- ' + lines[at], lines[at] + ' !!python/none']))
    try:
        recipe.parse('\n'.join(lines))
    except RecipeError as error:
        assert '\n' not in str(error)


# The one that docs/COMPRESSION.md shows.
OWN = re.search(r'```python\n(# clipped.py\n.*?)```', (
    Path(__file__).parents[2] / 'docs' / 'COMPRESSION.md').read_text(), re.DOTALL)[1]


def test_algorithms_of_ones_own(tmp_path):
    (tmp_path / 'own.py').write_text(OWN)
    text = GOOD.replace('name: percentile, share: 0.99', 'name: clipped, share: 0.5')
    with algorithms.algorithms_of([tmp_path / 'own.py']):
        assert recipe.parse(text).rules[0].weights.quantiser.share == 0.5
    with pytest.raises(RecipeError, match="'clipped' is not one of"):
        recipe.parse(text)


@pytest.mark.parametrize('code, words', [
    ('1 / 0', 'ZeroDivisionError'), ('from neuron_chunk_ros.compress import quantiser\n'
                                     '@quantiser("x")\nclass X: pass', 'is no Quantiser'),
    (OWN.replace('clipped', 'mse'), "'mse' is registered already"), (None, 'no such file')])
def test_algorithms_that_can_not_be_used(tmp_path, code, words):
    if code is not None:
        (tmp_path / 'own.py').write_text(code)
    with pytest.raises(RecipeError, match=words), \
            algorithms.algorithms_of([tmp_path / 'own.py']):
        pass


def test_files_that_are_none(tmp_path):
    with pytest.raises(RecipeError, match='no such recipe .these come along: .*int8'):
        recipe.load(tmp_path / 'gone.yaml')
    (tmp_path / 'long.yaml').write_text('#' * (1 << 20) + '\n')
    with pytest.raises(RecipeError, match='bytes long, at most 65,536 are read'):
        recipe.load(tmp_path / 'long.yaml')
    (tmp_path / 'empty.yaml').write_text('')
    with pytest.raises(RecipeError, match='empty.yaml:1: the recipe is empty'):
        recipe.load(tmp_path / 'empty.yaml')
