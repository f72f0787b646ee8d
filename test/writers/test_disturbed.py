# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Nothing half-written is ever taken for whole: every call of every writer, disturbed.

Of the calls that change what is on the disk, one fails or the process is killed in it. Then the
old thing is there, byte for byte, or the new one whole, and the next run succeeds and cleans up.

NEURON_CHUNK_CALLS=N disturbs N calls of each writer in every way; NEURON_CHUNK_KILLS=N kills each
command N times at random moments.
"""

import os
import random
import shutil

import pytest
from writers import DISTURBANCES, Writer


def _from(sources, name, at):
    return lambda folder: shutil.copytree(sources / name, folder / at)


def _benchmarks(folder):
    import calls
    (folder / 'BENCHMARKS.md').write_text(
        'head\n<!-- read: written by the tool -->\n<!-- read: end -->\ntail\n')
    assert calls.write_report(str(folder), 'older') == 0


def _profiled(folder):
    from neuron_chunk_ros.storage import profile_file
    from neuron_chunk_ros.storage.profile import Profile
    profile_file.save(Profile.assumed(), folder / 'storage-profile.json')


def _trained(folder):
    import calls
    assert calls.train(str(folder / 'run'), 1) == 0


@pytest.fixture
def writers(sources):
    """Map name -> writer."""
    given = ['--images', sources / 'pictures', '--samples', 1]
    model, bundle = sources / 'model', sources / 'bundle'

    def convert(*options):
        return Writer(lambda work: ['convert', model, work / 'b', *options], target='b',
                      bundle='b')

    return {
        'convert': convert(),
        'convert packed': convert('--rows', 'int8'),
        'convert in two parts': convert('--rows', 'int8', '--base', 4),
        'rewrite': Writer(lambda work: ['rewrite', sources / 'calibrated', work / 'b', '--order',
                                        'hot-cold'], target='b', bundle='b'),
        'calibrate': Writer(lambda work: ['calibrate', work / 'b', *given],
                            make=_from(sources, 'bundle', 'b'), bundle='b'),
        'calibrate anew': Writer(lambda work: ['calibrate', work / 'b', *given],
                                 make=_from(sources, 'calibrated', 'b'), bundle='b'),
        'characterize': Writer(lambda work: ['attention', 'characterize', work / 'b', *given,
                                             '--counts', 2, '--tolerance', 0.1],
                               make=_from(sources, 'bundle', 'b'), bundle='b'),
        'compress a model': Writer(lambda work: ['compress', model, work / 'b', '--recipe', 'int8',
                                                 *given], target='b', bundle='b'),
        'compress a bundle': Writer(
            lambda work: ['compress', bundle, work / 'b', '--recipe', 'int8', *given], target='b',
            bundle='b'),
        'compress to integers': Writer(
            lambda work: ['compress', model, work / 'b', '--recipe', 'fixed-point', *given],
            target='b'),
        'synthesize': Writer(lambda work: ['synthesize', 'tiny-qwen2-vl', work / 'm'], target='m'),
        'draw': Writer(lambda work: ['tabletop', 'draw', work / 'd', '--per-type', 1],
                       target='d'),
        'profile': Writer(lambda work: [str(work / 'storage-profile.json')],
                          make=_profiled, call='calls:save_profile'),
        'train': Writer(lambda work: [str(work / 'run'), 2], make=_trained, call='calls:train',
                        each=True),
        'report': Writer(lambda work: [str(work), 'newer'], make=_benchmarks,
                         call='calls:write_report', each=True),
        'play': Writer(lambda work: [str(work / 'out')], call='calls:play', target='out'),
        'tabletop': Writer(lambda work: [str(work)], call='calls:tabletop'),
    }


# All of whose calls are disturbed, each in one way, in the slow tests; of the others some.
EVERY_CALL = ('convert in two parts', 'calibrate anew', 'characterize', 'profile', 'train',
              'report')
SOME_CALLS = ('convert', 'convert packed', 'rewrite', 'calibrate', 'compress a model',
              'compress a bundle', 'compress to integers', 'synthesize', 'draw', 'play',
              'tabletop')
MOST = int(os.environ.get('NEURON_CHUNK_CALLS', '0'))
KILLS = int(os.environ.get('NEURON_CHUNK_KILLS', '2'))
WAYS = tuple(DISTURBANCES)


def disturbed(prepared, writer, work, numbers):
    """Disturb these calls, each in one way; all in every way where that many were asked for."""
    writer.begin(prepared, work)
    for turn, number in enumerate((spread(MOST) if MOST else numbers)(writer.calls)):
        for way in range(len(WAYS) if MOST else 1):
            writer.disturb(prepared, number, WAYS[(turn + way) % len(WAYS)], again=turn % 5 == 0)


def spread(count):
    """Return what gives so many calls among all, and the last ones, in which names change."""
    def numbers(calls):
        some = range(1, calls + 2, max(1, calls // count))
        return sorted({*some, *range(calls - 2, calls + 1)})
    return numbers


@pytest.mark.parametrize('name, count', [
    pytest.param('convert in two parts', 4, marks=pytest.mark.slow),
    ('characterize', 1), ('profile', 7), ('train', 4)])
def test_some_calls(prepared, writers, tmp_path, name, count):
    disturbed(prepared, writers[name], tmp_path / 'work', spread(count))


@pytest.mark.slow
@pytest.mark.parametrize('name', EVERY_CALL)
def test_every_call(prepared, writers, tmp_path, name):
    disturbed(prepared, writers[name], tmp_path / 'work', lambda calls: range(1, calls + 2))


@pytest.mark.slow
@pytest.mark.parametrize('name', SOME_CALLS)
def test_a_call_in_the_middle_and_the_last_ones(prepared, writers, tmp_path, name):
    disturbed(prepared, writers[name], tmp_path / 'work',
              lambda calls: (calls // 2, calls))


@pytest.mark.slow
@pytest.mark.parametrize('name', ('convert in two parts', 'compress a model', 'rewrite',
                                  'calibrate anew'))
def test_killed_at_random_moments(prepared, writers, tmp_path, name):
    """Half of them anywhere, half from its first write on."""
    writer, rng, alive = writers[name], random.Random(7), 0
    writer.begin(prepared, tmp_path / 'work')
    for number in range(KILLS):
        writing = number % 2 == 1
        span = writer.writing if writing else writer.seconds
        alive += writer.kill(prepared, rng.random() * span, writing)
    print(f'{name}: {alive} of {KILLS} killed before they ended')
    assert alive or KILLS < 10


@pytest.mark.slow
@pytest.mark.skipif(KILLS < 10, reason='measuring takes long: NEURON_CHUNK_KILLS=10 or more')
def test_a_profile_killed_at_random_moments(prepared, tmp_path):
    """It measures something else each time: what is there is the old one, or one that is whole."""
    from PIL import Image

    from neuron_chunk_ros.storage import profile_file
    work, rng, alive = tmp_path / 'work', random.Random(7), 0
    path, picture = work / 'storage-profile.json', work / 'storage-profile.png'
    measure = Writer(lambda work: ['profile', '--path', work, '--seconds', 1, '--allow-tmpfs'],
                     work=work)
    work.mkdir()
    _profiled(work)
    old = path.read_bytes()
    first = measure.run(prepared)
    assert first['code'] == 0 and path.read_bytes() != old
    for number in range(KILLS):
        before = path.read_bytes(), picture.read_bytes()
        # The second half, where what was measured is written and drawn.
        share = rng.random() if number % 2 == 0 else 0.8 + 0.2 * rng.random()
        alive += measure.run(prepared, seconds=share * first['seconds'])['code'] != 0
        assert path.read_bytes() == before[0] or profile_file.load(path).source == 'measured'
        with Image.open(picture) as image:
            image.load()
    print(f'profile: {alive} of {KILLS} killed before they ended')
    assert measure.run(prepared)['code'] == 0
    assert sorted(os.listdir(work)) == ['storage-profile.json', 'storage-profile.png']
