# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Budgets: what every group skips adds up to what was asked for."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.chunking.budgets import Budgets
from neuron_chunk_ros.chunking.teal import CAP, LEVELS, allocate

PARAMETERS = {'qkv': 131072, 'o': 65536, 'gate_up': 393216, 'down': 196608}
WANTED = st.floats(0, 1, exclude_max=True)


@pytest.fixture(scope='module')
def calibration():
    """Return one of two blocks, allocated on errors that grow at different rates."""
    groups = {}
    for layer, rates in enumerate([(9, 5, 2, 0.1), (1, 8, 0.3, 4)]):
        for kind, power in (('visual', 2), ('text', 3)):
            table = allocate(PARAMETERS, lambda s, rates=rates, power=power: sum(
                rate * s[name] ** power for rate, name in zip(rates, s, strict=True)))
            for name, values in table.items():
                groups.setdefault(f'layers.{layer}.{name}', {})[kind] = {
                    'sparsity': values, 'sensitivity': 0.1, 'variation': 1.0}
    return {'samples': 3, 'levels': list(LEVELS), 'groups': groups, 'about': {},
            'neurons': {'file': 'calibration-0123456789abcdef.safetensors', 'bytes': 1,
                        'sha256': '0' * 64}}


@settings(max_examples=200)
@given(wanted=WANTED, kind=st.sampled_from(['visual', 'text', 'decode']))
def test_weighted_by_parameters_it_is_what_was_wanted(calibration, wanted, kind):
    budgets = Budgets.from_calibration(calibration)
    assert budgets.calibrated
    for layer in (0, 1):
        found = {name: budgets.sparsity(f'layers.{layer}.{name}', kind, wanted)
                 for name in PARAMETERS}
        assert all(0 <= value < 1 for value in found.values())
        mean = sum(found[name] * count for name, count in PARAMETERS.items())
        assert mean / sum(PARAMETERS.values()) == pytest.approx(wanted, abs=1e-9)


@settings(max_examples=100)
@given(a=WANTED, b=WANTED)
def test_wanting_more_never_gives_less(calibration, a, b):
    budgets = Budgets.from_calibration(calibration)
    less, more = sorted((a, b))
    for group in calibration['groups']:
        assert budgets.sparsity(group, 'visual', less) <= (
            budgets.sparsity(group, 'visual', more) + 1e-12)


def test_ends_levels_and_kinds(calibration):
    budgets = Budgets.from_calibration(calibration)
    for name, kinds in calibration['groups'].items():
        assert budgets.sparsity(name, 'visual', 0) == 0
        for level, value in zip(LEVELS, kinds['visual']['sparsity'], strict=True):
            assert budgets.sparsity(name, 'visual', level) == pytest.approx(value)
        assert budgets.sparsity(name, 'text', 0.4) == budgets.sparsity(name, 'decode', 0.4)
    assert any(budgets.sparsity(name, 'text', 0.4) != budgets.sparsity(name, 'visual', 0.4)
               for name in calibration['groups'])


def test_uniform_is_the_fallback():
    for budgets in (Budgets.uniform(), Budgets.from_calibration(None)):
        assert not budgets.calibrated
        assert budgets.sparsity('any', 'decode', 0.35) == 0.35


@pytest.mark.parametrize('kind, wanted, words', [
    ('visual', 1.0, 'below 1'), ('visual', -0.1, 'below 1'), ('visual', float('nan'), 'below 1'),
    ('audio', 0.5, "kind of token 'audio'")])
def test_bad_questions(calibration, kind, wanted, words):
    for budgets in (Budgets.uniform(), Budgets.from_calibration(calibration)):
        with pytest.raises(ValueError, match=words):
            budgets.sparsity('layers.0.o', kind, wanted)
    with pytest.raises(ValueError, match=r'no group layers\.7\.o'):
        Budgets.from_calibration(calibration).sparsity('layers.7.o', 'text', 0.5)


def put(*path):
    *keys, value = path

    def change(calibration):
        for key in keys[:-1]:
            calibration = calibration[key]
        calibration[keys[-1]] = value
    return change


TABLE = ('groups', 'layers.0.o', 'text')
FINE = [0.0] * len(LEVELS)
MALFORMED = {
    'samples zero': (put('samples', 0), 'samples'),
    'samples true': (put('samples', True), 'samples'),
    'key extra': (put('code', 1), "'code' is not known"),
    'about text': (put('about', 'x'), 'about'),
    'levels text': (put('levels', 'x'), 'levels'),
    'levels empty': (put('levels', []), 'levels'),
    'levels one': (put('levels', [0]), 'levels'),
    'levels not from zero': (put('levels', [0.1, *LEVELS[1:]]), 'ascend from 0'),
    'levels fall': (put('levels', 3, 0.05), 'ascend from 0'),
    'levels reach 1': (put('levels', 18, 1.0), 'below 1'),
    'levels nan': (put('levels', 3, float('nan')), 'not a number'),
    'levels endless': (put('levels', [i / 5000 for i in range(4000)]), 'list of numbers'),
    'groups empty': (put('groups', {}), 'groups'),
    'groups list': (put('groups', []), 'groups'),
    'kind missing': (lambda c: c['groups']['layers.0.o'].pop('text'), "'text' is missing"),
    'kind extra': (put('groups', 'layers.0.o', 'audio', {}), "'audio' is not known"),
    'table list': (put(*TABLE, []), 'must be an object'),
    'table short': (put(*TABLE, 'sparsity', FINE[1:]), '18 sparsities for 19 levels'),
    'table falls': (put(*TABLE, 'sparsity', [0, .5, .4, *FINE[3:]]), 'never fall'),
    'table starts high': (put(*TABLE, 'sparsity', [0.1] * 19), 'start at 0'),
    'table reaches 1': (put(*TABLE, 'sparsity', [*FINE[1:], 1]), 'below 1'),
    'table negative': (put(*TABLE, 'sparsity', [-0.1, *FINE[1:]]), 'not a number from 0'),
    'table of text': (put(*TABLE, 'sparsity', ['0'] * 19), 'not a number'),
    'table of true': (put(*TABLE, 'sparsity', [False] * 19), 'not a number'),
    'table huge': (put(*TABLE, 'sparsity', [*FINE[1:], 10 ** 400]), 'not a number'),
    'sensitivity null': (put(*TABLE, 'sensitivity', None), 'sensitivity'),
    'variation negative': (put(*TABLE, 'variation', -1.0), 'variation'),
    'neurons null': (put('neurons', None), 'neurons'),
    'neurons outside': (put('neurons', 'file', '../calibration-0123456789abcdef.safetensors'),
                        'calibration-DIGEST'),
    'neurons elsewhere': (put('neurons', 'file', 'config.json'), 'calibration-DIGEST'),
}


@pytest.mark.parametrize('case', MALFORMED)
def test_malformed_calibration(calibration, case):
    change, words = MALFORMED[case]
    broken = copy.deepcopy(calibration)
    change(broken)
    with pytest.raises(ValueError) as caught:
        Budgets.from_calibration(broken)
    assert words in str(caught.value) and '\n' not in str(caught.value)


def test_no_group_skips_more_than_the_cap_within_the_levels(calibration):
    budgets = Budgets.from_calibration(calibration)
    for wanted in np.linspace(0, LEVELS[-1], 50):
        assert max(budgets.sparsity(name, 'visual', float(wanted))
                   for name in calibration['groups']) <= CAP


def test_what_a_share_of_importance_is_worth(calibration):
    """A group that hurts more is worth more; so is one whose lesser half holds little."""
    groups = copy.deepcopy(calibration)
    groups['groups']['layers.0.down']['visual']['sensitivity'] = 0.2
    groups['groups']['layers.0.o']['visual']['variation'] = 3.0
    budgets = Budgets.from_calibration(groups)
    plain = budgets.worth('layers.0.qkv', 'visual')
    assert budgets.worth('layers.0.down', 'visual') == pytest.approx(2 * plain)
    assert budgets.worth('layers.0.o', 'visual') > 2 * plain
    assert budgets.worth('layers.0.down', 'decode') == budgets.worth('layers.0.down', 'text')
    # Lognormal importance of variation 1: its lesser half holds a fifth.
    values = np.sort(np.random.default_rng(0).lognormal(sigma=np.sqrt(np.log(2)), size=100_000))
    assert 0.1 / plain == pytest.approx(values[:50_000].sum() / values.sum(), rel=0.02)
    groups['groups']['layers.0.o']['visual']['variation'] = 1e300  # its square is no number
    assert np.isfinite(Budgets.from_calibration(groups).worth('layers.0.o', 'visual'))
    assert Budgets.uniform().worth('anything', 'visual') == 1.0
    with pytest.raises(ValueError, match='unknown kind'):
        budgets.worth('layers.0.qkv', 'sound')
