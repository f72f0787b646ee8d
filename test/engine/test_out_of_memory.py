# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Memory that runs out anywhere makes no answer wrong: the same question is answered as ever.

Each operation of torch, and each call of numpy, torch or the native module that our code makes,
fails once, or fails from then on until the question has ended. Of the many the slow tests try
some; NEURON_CHUNK_STRIDE=1 in the environment has them all tried, in 20 minutes.
"""

import gc
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.utils._python_dispatch import TorchDispatchMode

import neuron_chunk_ros
from neuron_chunk_ros import Session
from neuron_chunk_ros.errors import out_of_memory
from neuron_chunk_ros.prepare.calibrate import calibrate
from neuron_chunk_ros.prepare.convert import convert

HOME = str(Path(neuron_chunk_ros.__file__).parent)
TORCH_SAYS = ("[enforce fail at alloc_cpu.cpp:1] err == 0. DefaultCPUAllocator: can't allocate "
              'memory: you tried to allocate 4096 bytes. Error code 12 (Cannot allocate memory)')
# Where rows stay in memory, or are read ahead, sums add up in another order from answer to answer.
EXACT, NEARLY = 0.0, 1e-6
WAYS = {
    'dense': ('plain', {}, EXACT),
    'heads': ('plain', {'head_mb': 0.1}, NEARLY),
    'topk': ('plain', {'policy': 'topk', 'sparsity': 0.5, 'drafts': False}, NEARLY),
    'packed': ('packed', {}, EXACT),
    'two parts': ('parts', {}, EXACT),
}


class OperationsFail(TorchDispatchMode):
    """Of torch's operations the Nth fails, and, where `on`, all that follow."""

    def __init__(self, number, on=False):
        super().__init__()
        self.number, self.on, self.count, self.at = number, on, 0, ''

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.number or (self.on and self.number and self.count > self.number):
            self.at = self.at or str(func)
            raise MemoryError if self.number % 2 else RuntimeError(TORCH_SAYS)
        return func(*args, **(kwargs or {}))


class CallsFail:
    """Of the calls that our code makes of C functions that may allocate, the Nth fails."""

    def __init__(self, number, on=False):
        self.number, self.count, self.at = number, 0, ''

    def __enter__(self):
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _called(self, frame, event, function):
        if function is not None and getattr(function, '__name__', '') == '__exit__':
            return  # leaving a context gives memory back
        if event != 'c_call' or not frame.f_code.co_filename.startswith(HOME):
            return
        home = getattr(function, '__module__', None) or type(
            getattr(function, '__self__', None)).__module__
        if not str(home).startswith(('numpy', 'torch', 'neuron_chunk_ros', 'pybind11')):
            return
        self.count += 1
        if self.count == self.number:
            self.at = f'{frame.f_code.co_filename}:{frame.f_lineno} {function}'
            raise MemoryError


FAILURES = (OperationsFail, CallsFail)
STRIDE = int(os.environ.get('NEURON_CHUNK_STRIDE', 0))


@pytest.fixture(scope='module')
def bundles(tiny_models, tiny_bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp('bundles')
    model = tiny_models['tiny-llava-onevision']
    return {'plain': tiny_bundles['tiny-llava-onevision'],
            'packed': convert(model, folder / 'packed', rows='int8').path,
            'parts': convert(model, folder / 'parts', rows='int8', base=4).path}


def image(seed):
    return np.random.default_rng(seed).integers(0, 256, (56, 56, 3), np.uint8)


def failed(work, failure):
    """Do work that memory runs out in; tell whether it failed."""
    try:
        with failure:
            work()
    except (MemoryError, RuntimeError) as error:
        assert out_of_memory(error), error
        return True
    return False


def holdings():
    """Return how many descriptors and threads there are."""
    return len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))


def same(answer, other, tolerance):
    return (answer.text, answer.tokens, answer.finish_reason) == (
        other.text, other.tokens, other.finish_reason) and (
        abs(answer.confidence - other.confidence) <= tolerance)


def check_questions(bundle, options, tolerance, kind, stride):
    def ask():
        return session.ask('what is it?', [image(1)], max_new_tokens=3)

    with Session.open(bundle, max_context=512, **options) as session:
        expected = ask()
        assert same(ask(), expected, tolerance)
        with kind(0) as undisturbed:
            ask()
        before, count = holdings(), 0
        for number in range(1, undisturbed.count + 1, stride):
            failure = kind(number, on=number // stride % 2 == 0)
            count += failed(ask, failure)
            assert same(ask(), expected, tolerance), failure.at
        assert count > 5 and holdings() == before


@pytest.mark.parametrize('kind', FAILURES)
@pytest.mark.parametrize('way', ['dense', 'two parts'])
def test_a_question_after_memory_ran_out_in_one(bundles, way, kind):
    name, options, tolerance = WAYS[way]
    check_questions(bundles[name], options, tolerance, kind, 97)


@pytest.mark.slow
@pytest.mark.parametrize('kind', FAILURES)
@pytest.mark.parametrize('way', WAYS)
def test_a_question_after_memory_ran_out_anywhere_in_one(bundles, way, kind):
    name, options, tolerance = WAYS[way]
    check_questions(bundles[name], options, tolerance, kind, STRIDE or 47)


def check_stream(bundle, kind, stride, most=10**9):
    """Append to a full stream of two cameras, whose keys have to be moved for it."""
    with Session.open(bundle, max_context=400, cameras=2) as session:
        def ask():
            return session._stream.ask('what is it?', max_new_tokens=3)

        def begin(*shown):
            stream = session.stream(window=2, cameras=2)
            for seed, camera in shown or ((0, 'a'), (1, 'b'), (2, 'a'), (3, 'b')):
                stream.append(image(seed), camera=camera)

        def append():
            session._stream.append(image(9), camera='a')

        begin((3, 'b'), (9, 'a'))
        afresh = ask()
        begin()
        older = ask()
        append()
        newer = ask()
        assert not same(older, newer, EXACT)
        begin()
        with kind(0) as undisturbed:
            append()
        outcomes = {'kept': 0, 'taken in': 0, 'forgotten': 0}
        for number in range(1, min(undisturbed.count, most) + 1, stride):
            begin()
            failure = kind(number, on=number // stride % 2 == 0)
            broken = failed(append, failure)
            frames = [(frame.camera, frame.tokens) for frame in session._stream.frames]
            if not frames:
                outcomes['forgotten'] += 1
                for seed, camera in ((3, 'b'), (9, 'a')):
                    session._stream.append(image(seed), camera=camera)
                assert same(ask(), afresh, EXACT), failure.at
                continue
            assert len(frames) == 4
            assert same(ask(), older if broken else newer, EXACT), failure.at
            outcomes['kept' if broken else 'taken in'] += 1
            if broken:
                append()
                assert same(ask(), newer, EXACT), failure.at
        return outcomes


@pytest.mark.parametrize('kind', FAILURES)
def test_a_stream_after_memory_ran_out_while_keys_moved(bundles, kind):
    # An answer was wrong without a word before: keys half moved, frames where others had been.
    outcomes = check_stream(bundles['plain'], kind, 9, most=180)
    assert outcomes['forgotten'] and outcomes['kept']


@pytest.mark.slow
@pytest.mark.parametrize('kind', FAILURES)
def test_a_stream_after_memory_ran_out_anywhere(bundles, kind):
    outcomes = check_stream(bundles['plain'], kind, STRIDE or 23)
    assert outcomes['forgotten'] and outcomes['kept']


def test_a_stream_whose_positions_move_down_in_the_wrong_moment(bundles, monkeypatch):
    """They do once in many frames, behind an append that was done."""
    with Session.open(bundles['plain'], max_context=400) as session:
        stream = session.stream(window=2)
        for number in range(3):
            stream.append(image(number))
        monkeypatch.setattr('neuron_chunk_ros.engine.frame_window._POSITIONS', 0)
        with OperationsFail(0) as undisturbed:
            stream.append(image(3))
        assert failed(lambda: stream.append(image(4)), OperationsFail(undisturbed.count - 5))
        assert stream.frames == ()


@pytest.mark.slow
@pytest.mark.parametrize('kind', FAILURES)
def test_opening_leaks_nothing(bundles, kind):
    def opened():
        Session.open(bundles['parts'], max_context=512, head_mb=0.05).close()

    opened()
    with kind(0) as undisturbed:
        opened()
    gc.collect()
    before, count = holdings(), 0
    for number in range(2, undisturbed.count, STRIDE or 61):
        count += failed(opened, kind(number))
        assert holdings() == before
    assert count > 5


@pytest.mark.parametrize('number', range(1, 12))
def test_a_policy_is_in_effect_or_not_named(bundles, number):
    """Changing it when memory runs out: the old one in name and deed, or the new one."""
    with Session.open(bundles['plain'], max_context=512) as session:
        failed(lambda: session.configure(policy='topk', sparsity=0.5), CallsFail(number))
        session.configure(policy='topk', sparsity=0.5)
        answer = session.ask('what is it?', [image(1)], max_new_tokens=2)
        assert answer.steps[-1].rows_selected < answer.steps[-1].rows_total


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize('kind', FAILURES)
def test_a_walk_leaves_the_bundle_as_it_was(bundles, tmp_path, kind):
    def walk():
        calibrate(bundle, [('what is it?', [image(1)])])

    bundle = Path(shutil.copytree(bundles['packed'], tmp_path / 'bundle'))
    before = contents(bundle)
    walk()
    calibrated = contents(bundle)
    assert calibrated != before
    with kind(0) as undisturbed:
        walk()
    shutil.rmtree(bundle)
    shutil.copytree(bundles['packed'], bundle)
    held, stride = holdings(), max(1, undisturbed.count // 4)
    for number in range(2, undisturbed.count, stride):
        if failed(walk, kind(number)):
            assert contents(bundle) == before
        assert holdings() == held
    walk()
    assert contents(bundle) == calibrated


@pytest.mark.parametrize('kind', FAILURES)
def test_converting_leaves_nothing(tiny_models, tmp_path, kind):
    def made(name):
        return lambda: convert(tiny_models['tiny-qwen2-vl'], tmp_path / name, rows='int8', base=4,
                               name='model')

    made('whole')()
    with kind(0) as undisturbed:
        made('again')()
    count = 0
    for number in range(1, undisturbed.count + 1, max(1, undisturbed.count // 12)):
        if failed(made('b'), kind(number)):
            count += 1
            assert sorted(os.listdir(tmp_path)) == ['again', 'whole']
        else:
            assert contents(tmp_path / 'b') == contents(tmp_path / 'whole')
            shutil.rmtree(tmp_path / 'b')
    assert count or kind is OperationsFail  # which converting has none of
    made('b')()
    assert contents(tmp_path / 'b') == contents(tmp_path / 'whole')
