# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Reads storage profiles, calibrations and compression recipes that are not quite right.

Found is any error but NeuronChunkError (ValueError from `calibration.check`, whose callers name
the file), one whose message is not one line with the file's path, a call over two seconds, memory
that grows, and a profile or recipe that was taken but can't be used.
"""

import inspect
import json
import math
from pathlib import Path

import numpy as np
from support import bundles, files, json_values, refusals, watched
from support.hostile import pick

from neuron_chunk_ros.chunking.budgets import Budgets
from neuron_chunk_ros.compress import recipe
from neuron_chunk_ros.storage import calibration as calibrations
from neuron_chunk_ros.storage import profile_file
from neuron_chunk_ros.storage.layout import BUNDLE_JSON
from neuron_chunk_ros.storage.profile import PROFILE_JSON, Line, Profile

_PROFILES = [
    Profile(Line(1e-5, 2.5e-7), Line(6e-6, 2.65625e-7), 256, 768, 6e-5, 'measured',
            (1, 4, 1024), (1.03e-5, 1.1e-5, 2.8e-4),
            ((1e-5, 1.1e-5), (1.1e-5, 1.2e-5), (2.7e-4, 2.9e-4)),
            {'file_system': 'ext4', 'mount_source': '/dev/sda', 'device': 'x', 'repeats': 9}),
    Profile.assumed(), Profile.simulated('orin-nano')]
_RECIPES = [(Path(inspect.getfile(recipe)).parent / 'recipes' / f'{name}.yaml').read_text()
            for name in recipe.shipped()]
_RECIPES.append((Path(__file__).parents[1] / 'test/compress/every_key.yaml').read_text())
_WORDS = [
    '*a', '&a ', '!!python/object/apply:os.system [ls]', '!!binary "x"', '!!float x', '!!int "_"',
    '!!timestamp 9', '!!null 0', '!!bool 7', '!!set {a}', '!x y', '? ', '- ', ': ', '{', '}', '[',
    ']', '"', "'", '|', '>', '\t', '%YAML 9.9\n', '---\n', '...\n', '<<: ', '~', '.nan', '.inf',
    '-.inf', '1e400', '0x', '0o9', '1_0', '190:20:30', '2001-99-99', '2001-01-01', '=', 'yes',
    '\0', '\x85', '\u2028', '\ufeff', '\ud83d\ude00', '9' * 5000, 'a' * 5000, '-1', '1.5', '""',
    '"a\\nb"', '"\\ud800"', '"\\0"', '\n', '  ', '# ', 'minmax', 'mse', 'percentile', 'group: row',
    'bits: 3', 'base: 4', 'weights: {bits: 8}', 'name: {a: b}', '[' * 2000, '{a: ' * 2000,
    '&a [*a]', 'n: 0', 'm: 0', 'share: .nan']
_BOMB = 'a: &a [x,x,x,x,x,x,x,x,x]\n' + ''.join(
    f'{chr(98 + i)}: &{chr(98 + i)} [{", ".join(["*" + chr(97 + i)] * 9)}]\n' for i in range(9))
_SPICES = [('low', {'request_seconds': 0, 'kib_seconds': 0}), ('knee_kib', 1e-300),
           ('knee_kib', 2**40), ('saturation_kib', 2**53), ('saturation_kib', 10**7),
           ('source', 'assumed'), ('source', 'measured'), ('about', {'a\nb': 'c\x1b[2J'}),
           ('about', {'device': 'a\nb'}), ('file_system', '\ud800'), ('batch_seconds', 3600),
           ('kib_seconds', 5e-324), ('request_seconds', 5e-324)]


def _profile(rng, watch, folder):
    path = folder / PROFILE_JSON
    profile_file.save(pick(rng, _PROFILES), path)
    kind = rng.integers(10)
    if kind < 7:
        value = json.loads(path.read_bytes())
        bundles.rewritten(path, json_values.written(
            rng, json_values.changed(rng, value, _SPICES)))
    elif kind < 9:
        bundles.rewritten(path, files.damaged(rng, path.read_bytes()))
    else:
        (folder / 'other').write_bytes(b'{}')
        files.replace(rng, path)
    watch('profile_file.load')
    profile = refusals.refused_or(lambda: profile_file.load(path), [path])
    watch('profile_file.find')
    found, note = profile_file.find(folder / 'bundle')
    if found is None:
        refusals.check_line(note, [folder])
    if profile is None:
        return
    watch(f'use of {profile!r}')
    numbers = [*profile.line, *profile.table(4096), profile.estimate(np.array([4096, 1 << 20]))]
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise watched.Finding('a profile that was taken gives times that are none')
    profile_file.save(profile, path)
    if profile_file.load(path) != profile:
        raise watched.Finding('a profile is not what was saved')


def _calibration(rng, watch, folder):
    source = json.loads((bundles.calibrated(bundles.FAMILIES[0]) / BUNDLE_JSON).read_bytes())
    value = json_values.changed(rng, source['calibration'], [
        ('samples', 0), ('levels', [0, 1]), ('sparsity', [0] * 20), ('variation', 1e300),
        ('sensitivity', 0), ('sensitivity', 1e-320), ('file', '../x'), ('bytes', -1)])
    try:
        value = json.loads(json_values.written(rng, value))
    except (ValueError, RecursionError):
        return  # bundle_json.py is about bad JSON

    def check():
        calibrations.check(value)
        return Budgets.from_calibration(value)
    watch('calibration.check')
    budgets = refusals.refused_or(check, errors=ValueError)
    if budgets is None:
        return
    for sparsity in (0.0, 0.3, 0.999):
        for group in value['groups']:
            watch(f'Budgets of {group} {sparsity}')
            for kind in calibrations.KINDS:
                share = budgets.sparsity(group, kind, sparsity)
                if not 0 <= share < 1:
                    raise watched.Finding(f'a budget of {share}')


def _recipe(rng, watch, folder):
    path = folder / 'recipe.yaml'
    text = pick(rng, _RECIPES)
    kind = rng.integers(10)
    if kind < 6:
        for _ in range(1 + int(rng.integers(3))):
            tokens = [i for i, c in enumerate(text) if c in ' :\n,{}[]"'] or [0]
            at = pick(rng, tokens) + 1
            end = at + int(rng.integers(12)) if rng.random() < 0.5 else at
            text = text[:at] + pick(rng, _WORDS) + text[end:]
        data = text.encode('utf-8', 'surrogatepass')
    elif kind == 6:
        data = pick(rng, [b'', b'---', _BOMB.encode(), b'a: b', b'[]', b'7', text.encode('utf-16'),
                          b'&a ' + text.encode(), b'x' * (1 << 20), b'x' * ((1 << 20) + 1),
                          b'a: ' * 100_000, b'[' * 100_000, b'- ' * 100_000,
                          b'name: x\nlayers: [' + b'{weights: {bits: 8}},' * 9000 + b']'])
    elif kind < 9:
        data = files.damaged(rng, text.encode(), [one.encode() for one in _RECIPES])
    else:
        data = text.encode()
    bundles.rewritten(path, data)
    if kind == 9:
        (folder / 'other').write_bytes(b'{}')
        files.replace(rng, path)
    watch(f'recipe.load of {data[:2000]!r}')
    found = refusals.refused_or(lambda: recipe.load(path), [path])
    if found is None:
        return
    for module in ('model.layers.0.mlp.down_proj', 'lm_head'):
        rule = found.rule(module)
        if rule and rule.weights:
            refusals.refused_or(lambda rule=rule: rule.weights.stored, errors=ValueError)


def run_case(rng, watch):
    """Make one case: several files, one after the other."""
    bundles.calibrated(bundles.FAMILIES[0])  # takes a while the first time
    for _ in range(10):
        folder = bundles.emptied()
        (folder / 'bundle').mkdir()
        with bundles.Leftovers():
            pick(rng, [_profile, _profile, _calibration, _recipe, _recipe, _recipe])(
                rng, watch, folder)


if __name__ == '__main__':
    bundles.quiet()
    watched.main(run_case, inspect.getdoc(inspect.getmodule(run_case)).splitlines()[0])
