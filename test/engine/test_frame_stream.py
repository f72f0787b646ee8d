# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Streams of frames: against plain transformers, over drops and moves, and through failures."""

import copy
import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stream_reference import Reference
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import (
    MemoryBudgetError,
    ModelError,
    ReadError,
    RequestError,
    Stopped,
)
from neuron_chunk_ros.families import prompt_builder
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.presets import PRESETS
from neuron_chunk_ros.prepare.synthesize import synthesize
from neuron_chunk_ros.storage.profile import Line, Profile
from neuron_chunk_ros.storage.side_files import SideFiles
from neuron_chunk_ros.tabletop.shipped import bundle_dir

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')
QUESTION = 'what is on the table?'
CLOSE = {'rtol': 1e-4, 'atol': 1e-4}


def picture(seed, size=(90, 120)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


@pytest.fixture(scope='module')
def plain(tiny_models):
    return {name: AutoModelForImageTextToText.from_pretrained(folder).eval()
            for name, folder in tiny_models.items()}


class Logits:
    """Records what the LM head puts out."""

    def __init__(self, session):
        self._seen = []
        session._model.lm_head.register_forward_hook(
            lambda module, args, out: self._seen.append(out[-1].float().clone()))

    def take(self):
        seen, self._seen[:] = torch.stack(self._seen), []
        return seen


def kept_bytes(session, stream):
    """Return what the stream has in memory, as bytes."""
    return [part.numpy().tobytes() for pair in session._memory.take(0, stream.tokens)
            for part in pair]


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('count', [1, pytest.param(2, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize('names', [False, True])
def test_stream_equals_all_frames_at_once_and_plain_transformers(
        plain, tiny_bundles, family, count, names):
    """With nothing skipped, frames one by one give what they give together."""
    shown = [picture(i, (60 + 30 * i, 120)) for i in range(count)]
    called = [f'camera {i}' for i in range(count)] if names else None
    with Session.open(tiny_bundles[family], piece_mb=0.02, drafts=False) as session:
        logits = Logits(session)
        want = session.ask(QUESTION, shown, names=called, max_new_tokens=8)
        at_once = logits.take()
        inputs = session.prepare(QUESTION, shown, called)
        assert 'camera 0: ' in session._prompts.tokenizer.decode(
            inputs['input_ids'][0]) or not names
        with torch.inference_mode():
            other = plain[family](**inputs).logits[0, -1]
        torch.testing.assert_close(at_once[0], other, **CLOSE)
        stream = session.stream(window=4)
        for index, image in enumerate(shown):
            bill = stream.append(image, name=called[index] if names else '', tag=index)
            assert bill.step == 'append' and bill.tokens == stream.frames[-1].tokens
        assert [frame.tag for frame in stream.frames] == list(range(count))
        assert stream.tokens + session._inputs.suffix(
            QUESTION, stream._segments[-1].trail).tokens == inputs['input_ids'].shape[1]
        assert not logits._seen  # appending doesn't ask the LM head
        before = kept_bytes(session, stream)
        for _ in range(2):
            got = stream.ask(QUESTION, max_new_tokens=8)
            torch.testing.assert_close(logits.take(), at_once, **CLOSE)
            assert got.text == want.text and got.finish_reason == want.finish_reason
            assert [step.step for step in got.steps] == [step.step for step in want.steps]
            assert kept_bytes(session, stream) == before
        # A question with images of its own, meanwhile: neither sees anything of the other.
        again = session.ask(QUESTION, shown, names=called, max_new_tokens=8)
        torch.testing.assert_close(logits.take(), at_once, **CLOSE)
        assert again.text == want.text and kept_bytes(session, stream) == before


RATES = {
    'one camera': ['a'] * 9,
    'equal rates': ['a', 'b'] * 5,
    'a slow one': ['b', 'b', 'a', 'a', 'a', 'a', 'b', 'a', 'a', 'a'],
    'three': ['c', 'a', 'b', 'a', 'a', 'c', 'a', 'b', 'a', 'a', 'a', 'b'],
}


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('rates', RATES)
@pytest.mark.parametrize('window', [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize('positions', [4, pytest.param(0.15, marks=pytest.mark.slow)])
def test_dropping_frames_equals_rotating_from_scratch(
        plain, tiny_bundles, family, rates, window, positions, monkeypatch):
    """Holes in the middle, several cameras, and positions moved down on the way."""
    monkeypatch.setattr('neuron_chunk_ros.engine.frame_window._POSITIONS', positions)
    builder = prompt_builder(family.removeprefix('tiny-').replace('-', '_'),
                             SideFiles.of_model(tiny_bundles[family]), plain[family].config)
    reference = Reference(plain[family], builder, window)
    with Session.open(tiny_bundles[family], max_context=256) as session:
        logits, stream = Logits(session), session.stream(window, cameras=3)
        moved_down, move_down = [], stream._move_down
        stream._move_down = lambda: (moved_down.append(stream._segments[0].start), move_down())
        for turn, camera in enumerate(RATES[rates]):
            image = picture(turn, (60 + 20 * (turn % 3), 90))
            stream.append(image, camera=camera, name=camera)
            reference.append(image, camera, camera)
            assert [f.camera for f in stream.frames] == [f['camera'] for f in reference.frames()]
            if turn % 2 or turn > 6:
                answer = stream.ask(QUESTION, max_new_tokens=3)
                got = logits.take()
                torch.testing.assert_close(got, reference.ask(QUESTION, len(got)), **CLOSE)
                assert answer.tokens
            at = stream._segments[0].start
            for segment in stream._segments:
                assert segment.start == at
                at = segment.end
        assert any(moved_down) or positions == 4 or window == 1
        assert not moved_down or positions < 1


def state(session, stream):
    """Return all that a stream is, as bytes and plain values."""
    segments = [(s.tokens, s.start, s.span, s.frame, s.number, s.trail,
                 s.origin and (s.origin[0], [keys.numpy().tobytes() for keys in s.origin[1]]))
                for s in stream._segments]
    return stream.frames, stream.tokens, segments, kept_bytes(session, stream), [
        layer.length for layer in stream._cache.layers]


class After:
    """Says stop when asked for the nth time."""

    def __init__(self, times):
        self.left = times

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize('family', FAMILIES)
def test_a_failed_append_leaves_the_stream_as_it_was(tiny_bundles, tmp_path, family):
    """Also where a frame had to make room, wherever it was stopped, and however."""
    bundle = Path(shutil.copytree(tiny_bundles[family], tmp_path / 'bundle'))
    flash, = bundle.glob('flash-*')
    whole = flash.read_bytes()
    with Session.open(bundle, piece_mb=0.02) as session:
        stream = session.stream(window=2, cameras=3)
        looks = After(10 ** 9)
        with pytest.raises(Stopped, match='cancelled'):  # not even the sinks stay
            stream.append(picture(0), cancelled=After(40))
        assert state(session, stream) == ((), 0, [], kept_bytes(session, stream), [0] * 3)
        for turn, camera in enumerate('baabaaa'):
            stream.append(picture(turn), camera=camera, cancelled=looks)
        want = stream.ask(QUESTION, max_new_tokens=6).text
        before = state(session, stream)
        assert [f.camera for f in stream.frames] == ['b', 'b', 'a', 'a']
        looks = After(10 ** 9)
        steps = []
        for camera in ('a', 'b', 'c'):
            for stop in (0, 1, 5, 12, 30, 45):
                with pytest.raises(Stopped, match='cancelled'):
                    stream.append(picture(9), camera=camera, cancelled=After(stop),
                                  on_step=steps.append)
                assert state(session, stream) == before and not steps
            with pytest.raises(Stopped, match='deadline'):
                stream.append(picture(9), camera=camera, deadline=0.0)
            with pytest.raises(RequestError, match='the image is float64'):
                stream.append(picture(9) / 2, camera=camera)
            os.truncate(flash, len(whole) // 2)
            with pytest.raises(ReadError, match=r'flash-.*offset'):
                stream.append(picture(9), camera=camera)
            with pytest.raises(ReadError):
                stream.ask(QUESTION)
            with open(flash, 'r+b') as file:  # the same inode: the reader keeps its descriptor
                file.write(whole)
            assert state(session, stream) == before
        for stop in (0, 20, 60):
            assert stream.ask(QUESTION, cancelled=After(stop)).finish_reason == 'cancelled'
            assert state(session, stream) == before
        assert stream.ask(QUESTION, deadline=0.0).finish_reason == 'deadline'
        assert stream.ask(QUESTION, max_new_tokens=6).text == want
        assert state(session, stream) == before
        stream.append(picture(9), camera='a', cancelled=looks)  # the looks were there to stop it
        assert 10 ** 9 - looks.left > 60


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(
    st.sampled_from(['append', 'append', 'append', 'fail', 'ask', 'aside', 'clear']),
    st.sampled_from('abc'), st.integers(0, 60)), max_size=25), st.integers(1, 3),
    st.sampled_from([0.3, 4]))
def test_any_order_of_doings(sessions, doings, window, positions):
    """Frames, tokens, windows, memory and gapless positions, whatever is done."""
    session = sessions['tiny-qwen2-vl']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('neuron_chunk_ros.engine.frame_window._POSITIONS', positions)
        stream = session.stream(window, cameras=3)
        expected = []
        for turn, (doing, camera, stop) in enumerate(doings):
            image = picture(stop, (56 + 56 * (stop % 3), 56))
            before = state(session, stream)
            if doing == 'clear':
                stream.clear()
                expected = []
            elif doing == 'ask':
                stream.ask(QUESTION, max_new_tokens=2, cancelled=After(5 * stop))
            elif doing == 'aside':
                session.ask('what?', [image], max_new_tokens=1)
            elif doing == 'fail':
                with pytest.raises(Stopped):
                    stream.append(image, camera=camera, tag=turn, cancelled=After(stop % 20))
            else:
                stream.append(image, camera=camera, tag=turn)
                own = [entry for entry in expected if entry[0] == camera]
                if len(own) == window:
                    expected.remove(own[0])
                expected.append((camera, turn))
                while len(expected) > len(stream.frames):  # for want of memory
                    expected.pop(0)
            if doing not in ('append', 'clear'):
                assert state(session, stream) == before
            assert [(f.camera, f.tag) for f in stream.frames] == expected
            assert all(sum(f.camera == c for f in stream.frames) <= window for c in 'abc')
            segments = stream._segments
            assert stream.tokens == sum(s.tokens for s in segments) <= stream.capacity
            assert {layer.length for layer in stream._cache.layers} == {stream.tokens}
            for one, following in zip(segments, segments[1:], strict=False):
                assert following.start == one.end
            assert len({s.number for s in segments}) == len(segments)
            assert stream._end <= positions * session.context + stream.capacity


@pytest.fixture(scope='module')
def sessions(tiny_bundles):
    opened = {name: Session.open(tiny_bundles[name], max_context=128) for name in FAMILIES}
    yield opened
    for session in opened.values():
        session.close()


def test_frames_make_room_where_memory_ends(sessions):
    session = sessions['tiny-llava-onevision']
    stream = session.stream(window=100, cameras=3)
    assert stream.capacity == 96 and session.context == 128
    for turn in range(20):
        stream.append(picture(turn), camera='ab'[turn % 3 == 0], tag=turn)
        assert stream.tokens <= 96
    tags = [frame.tag for frame in stream.frames]
    assert tags == list(range(tags[0], 20)) and len(tags) > 5
    assert stream.tokens + stream.frames[0].tokens > 96, 'more was dropped than had to be'
    assert stream.ask('why?', max_new_tokens=3).tokens
    with pytest.raises(RequestError, match=r'needs \d+ tokens and 90 more for the answer, the '
                                           r'context holds 128, of which a stream of frames '
                                           rf'takes {stream.tokens}'):
        stream.ask('why?', max_new_tokens=90)
    with pytest.raises(RequestError, match='of which a stream'):
        session.ask('why?', [picture(0)], max_new_tokens=32)


def test_a_frame_that_never_fits(tiny_bundles):
    with Session.open(tiny_bundles['tiny-qwen2-vl'], max_context=60) as session:
        stream = session.stream(window=2)
        stream.append(picture(0, (56, 56)))
        before = state(session, stream)
        with pytest.raises(RequestError, match=r'takes \d+ tokens and the text ahead of it \d+, '
                                               'but of a context of 60 tokens frames may take '
                                               '45: a larger max_context'):
            stream.append(picture(1, (196, 196)))
        assert state(session, stream) == before


@pytest.mark.parametrize('policy', ['topk', 'greedy', 'optimal'])
def test_a_frame_is_read_sparsely_though_text_is_not(tiny_bundles, policy):
    """One selection a group, by the visual tokens alone, also with words around the image."""
    line = Line(1e-9, 1e-6)  # of a drive where reading everything is never quicker
    profile = Profile(line, line, 1.0, 1, 0.0, 'assumed')
    with Session.open(tiny_bundles['tiny-llava-onevision'], policy=policy, sparsity=0.5,
                      profile=profile) as session:
        stream, steps = session.stream(window=2), []
        for turn in range(3):
            bill = stream.append(picture(turn), name='front', on_step=steps.append)
            chosen = bill.rows_selected - (bill.rows_ahead - bill.rows_ahead_wanted)
            assert 0.3 < chosen / bill.rows_total < 0.52
            assert 0.3 < bill.importance_kept < 1 and bill.step == 'append'
        assert [s.step for s in steps] == ['prefill', 'append', 'append', 'append']
        assert steps[0].rows_selected == steps[0].rows_total
        answer = stream.ask(QUESTION, max_new_tokens=3)
        prefill, decode = answer.steps[:2]
        assert prefill.rows_selected == prefill.rows_total and prefill.tokens < 80
        assert decode.rows_selected < 0.52 * decode.rows_total


def test_topk_appends_as_masking_the_visual_tokens_would(tiny_bundles):
    """Against the dense decoder with each group's input masked to the visual tokens' top rows."""
    bundle = tiny_bundles['tiny-llava-onevision']
    kept = []
    with Session.open(bundle, policy='topk', sparsity=0.5) as session:
        stream = session.stream(window=1)
        stream.append(picture(0), name='front')
        kept.append(session._memory.take(0, stream.tokens))
    with Session.open(bundle) as session:
        stream = session.stream(window=1)
        multiply, visual = session._products.multiply, []

        def masked(group, inputs):
            if visual:
                importance = inputs[visual[0]].abs().mean(dim=0)
                rows = round(group.rows * 0.5)
                chosen = torch.sort(importance, descending=True, stable=True).indices[:rows]
                mask = torch.zeros(group.rows)
                mask[chosen] = 1
                inputs = inputs * mask
            return multiply(group, inputs)

        session._products.multiply = masked
        begin = session._products.begin

        def note(step):
            visual[:] = [step.visual] if step.kind == 'append' else []
            begin(step)

        session._products.begin = note
        stream.append(picture(0), name='front')
        kept.append(session._memory.take(0, stream.tokens))
    for got, want in zip(*kept, strict=True):
        torch.testing.assert_close(got[0], want[0], **CLOSE)
        torch.testing.assert_close(got[1], want[1], **CLOSE)


def test_step_deadline_holds_for_frames(tiny_bundles):
    line = Line(1e-5, 1e-3)  # a drive a thousand times slower than the real one
    profile = Profile(line, line, 1.0, 1, 0.0, 'assumed')
    parts = []
    for deadline_ms in (1, 300, 1e6):
        with Session.open(tiny_bundles['tiny-llava-onevision'], policy='optimal',
                          deadline_ms=deadline_ms, profile=profile) as session:
            bill = session.stream(window=1).append(picture(0))
            parts.append(bill.rows_selected / bill.rows_total)
    assert 0 < parts[0] < parts[1] < parts[2] == 1.0


def test_one_stream_at_a_time(sessions):
    session = sessions['tiny-llava-onevision']
    with pytest.raises(ValueError, match='window is 0'):
        session.stream(window=0)
    first = session.stream(window=1)
    first.append(picture(0))
    second = session.stream(window=2)
    assert second.frames == () and second.tokens == 0 and second.window == 2
    for use in (lambda: first.append(picture(0)), lambda: first.ask('why?'), first.clear):
        with pytest.raises(RuntimeError, match='this stream has ended'):
            use()
    assert first.frames == () and (first.window, first.capacity) == (1, second.capacity)
    second.append(picture(1))
    want = second.ask(QUESTION, max_new_tokens=4).text
    second.clear()
    assert second.frames == () and second.tokens == 0
    assert second.ask(QUESTION, max_new_tokens=4).text == session.ask(
        QUESTION, [], max_new_tokens=4).text
    second.append(picture(1))
    assert second.ask(QUESTION, max_new_tokens=4).text == want


def test_rotary_positions_that_change_with_the_length_are_refused(tiny_bundles):
    with Session.open(tiny_bundles['tiny-llava-onevision']) as session:
        session._model.model.language_model.rotary_emb.rope_type = 'dynamic'
        with pytest.raises(ModelError, match="rope_type 'dynamic'"):
            session.stream(window=1)


def test_bfloat16_keys_never_round_twice(tiny_models, tmp_path):
    """A frame that moves hundreds of times lies as close to the truth as after one move."""
    bundle = convert(tiny_models['tiny-llava-onevision'], tmp_path / 'bundle', 'bfloat16').path
    with Session.open(bundle, max_context=512) as session:
        stream = session.stream(window=1, cameras=3)
        stream.append(picture(0), camera='still')
        still = stream._segments[1]
        here = slice(stream._segments[0].tokens, stream._segments[0].tokens + still.tokens)
        first, computed = still.start, [keys[:, :, here].clone() for keys in session._memory.keys]
        for turn in range(80):
            for camera in 'ab':
                stream.append(picture(turn, (30, 30)), camera=camera)
        assert still in stream._segments and still.start != first
        for keys, original in zip(session._memory.keys, computed, strict=True):
            once = stream._rotation(original, still.start - first)
            error = (keys[:, :, here].float() - once.float()).abs().max()
            # At most the two roundings of one move down on the way.
            assert error <= 2 ** -7 * once.abs().max()


@pytest.mark.slow
def test_an_endless_stream_takes_no_more_memory(tmp_path):
    """Thousands of frames of three cameras, over drops and moves down."""
    config = copy.deepcopy(PRESETS['tiny-llava-onevision'].config)
    config['text_config']['num_hidden_layers'] = config['text_config']['max_window_layers'] = 1
    config['vision_config']['num_hidden_layers'] = 1
    preset = dataclasses.replace(PRESETS['tiny-llava-onevision'], config=config)
    synthesize(preset, tmp_path / 'model', dtype='float32')
    bundle = convert(tmp_path / 'model', tmp_path / 'bundle').path
    done = subprocess.run([sys.executable, Path(__file__).with_name('endless_stream.py'), bundle],
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    left = json.loads(done.stdout)
    assert 400 < left['highest'] <= 4 * 128, 'positions grew, and were moved down'
    assert left['kib'] < 4096 and left['objects'] < 500, left


def test_memory_of_several_cameras_is_declared():
    """Frames ahead of a hole keep copies of their keys, which count as memory."""
    with Session.open(bundle_dir()) as session:
        one, kv = session.memory()['total'], session.memory()['kv_cache']
        session.stream(window=2, cameras=2)
        assert session.memory()['key_copies'] == kv / 2
        assert session.memory()['total'] == pytest.approx(one + kv / 2)
        stream = session.stream(window=2)
        assert session.memory()['total'] == one
        stream.append(picture(0), camera='front')
        with pytest.raises(ValueError, match='stream is for 1 camera'):
            stream.append(picture(1), camera='left')
        with pytest.raises(ValueError, match='cameras is 0'):
            session.stream(window=1, cameras=0)
    budget = math.ceil(one)
    assert one + kv / 2 > budget
    enough = budget + math.ceil(kv / 2)
    with Session.open(bundle_dir(), memory_budget_mb=enough, cameras=2) as session:
        session.stream(window=2, cameras=2).append(picture(0))
    with Session.open(bundle_dir(), memory_budget_mb=budget) as session:
        session.stream(window=2).append(picture(0))
        with pytest.raises(MemoryBudgetError, match='key copies'):
            session.stream(window=2, cameras=2)
        # The one before goes on.
        assert session.ask(QUESTION, [picture(1)], max_new_tokens=1).tokens == 1
