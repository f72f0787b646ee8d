# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The engine against plain transformers, and what it does when it is stopped or asked wrongly."""

import gc
import json
import os
import shutil
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import BundleError, MemoryBudgetError, ReadError, RequestError
from neuron_chunk_ros.storage.profile import Line, Profile

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')


def pictures(number, seed=0, size=(90, 120)):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(number)]


@pytest.fixture(scope='module')
def plain(tiny_models):
    return {name: AutoModelForImageTextToText.from_pretrained(folder).eval()
            for name, folder in tiny_models.items()}


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('images', [0, 1, 2, 4])
@pytest.mark.parametrize('piece_mb', [16, 0.02])
def test_dense_equals_plain_transformers(plain, tiny_bundles, family, images, piece_mb):
    """The foundation: with nothing skipped, logits and generated tokens are the same."""
    with Session.open(tiny_bundles[family], piece_mb=piece_mb) as session:
        shown = pictures(images)
        inputs = session.prepare('what is on the table?', shown)
        with torch.inference_mode():
            want = plain[family](**inputs).logits
            got = session._model(**inputs).logits
            tokens = plain[family].generate(**inputs, max_new_tokens=12, do_sample=False)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        answer = session.ask('what is on the table?', shown, max_new_tokens=12)
        new = tokens[0, inputs['input_ids'].shape[1]:]
        assert answer.text == session._prompts.tokenizer.decode(
            new, skip_special_tokens=True).strip()
        assert answer.tokens > 0


@pytest.mark.parametrize('family', FAMILIES)
def test_bfloat16_stays_within_its_rounding(tiny_models, tmp_path, family):
    """bfloat16 against plain bfloat16, both held against float32: ours is no worse."""
    from neuron_chunk_ros.prepare.convert import convert
    bundle = convert(tiny_models[family], tmp_path / 'bundle', 'bfloat16').path
    exact = AutoModelForImageTextToText.from_pretrained(
        tiny_models[family], dtype=torch.bfloat16).float().eval()
    rounded = AutoModelForImageTextToText.from_pretrained(
        tiny_models[family], dtype=torch.bfloat16).eval()
    with Session.open(bundle, piece_mb=0.02) as session, torch.inference_mode():
        inputs = session.prepare('what is this?', pictures(2))
        full = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
        truth = exact(**full).logits
        ours = (session._model(**inputs).logits.float() - truth).abs()
        theirs = (rounded(**inputs).logits.float() - truth).abs()
    assert ours.mean() <= 1.25 * theirs.mean() + 1e-6


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('policy', ['topk', 'greedy'])
def test_policies_at_zero_sparsity_are_dense(tiny_bundles, family, policy):
    shown = pictures(2)
    with Session.open(tiny_bundles[family]) as session:
        want = session.ask('hello there', shown, max_new_tokens=6)
        session.configure(policy=policy)
        got = session.ask('hello there', shown, max_new_tokens=6)
    assert got.text == want.text
    assert got.io.rows_selected == got.io.rows_total == want.io.rows_total


def reference_masked(model, layers, inputs, keep):
    """Plain transformers with each decoder input masked to its top rows, decode-style."""
    handles = []

    def mask(module, args):
        x = args[0]
        importance = x.abs().float().mean(dim=tuple(range(x.dim() - 1)))
        rows = max(1, round(len(importance) * keep))
        chosen = torch.sort(importance, descending=True, stable=True).indices[:rows]
        masked = torch.zeros_like(x)
        masked[..., chosen] = x[..., chosen]
        return (masked,)

    for layer in layers:
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj,
                       layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.up_proj,
                       layer.mlp.down_proj):
            handles.append(linear.register_forward_pre_hook(mask))
    try:
        return model(**inputs).logits
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize('keep', [0.3, 0.7])
def test_topk_equals_masking_the_activations(plain, tiny_bundles, keep):
    """Reading only some rows gives what zeroing the other activations gives (text prompt)."""
    family = 'tiny-llava-onevision'
    model = plain[family]
    with Session.open(tiny_bundles[family], policy='topk', sparsity=0.5,
                      text_sparsity=1 - keep, piece_mb=0.02) as session, torch.inference_mode():
        inputs = session.prepare('a plain question', [])
        got = session._model(**inputs).logits
        want = reference_masked(model, model.model.language_model.layers, inputs, keep)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('policy', ['topk', 'greedy', 'optimal'])
def test_bill_of_a_sparse_answer(tiny_bundles, policy):
    """Rows stay within the budgets, kinds of token choose for themselves, sums add up."""
    seen = []
    # Of a drive where a request costs next to nothing, reading everything is never quicker.
    line = Line(1e-9, 1e-6)
    profile = Profile(line, line, 1.0, 1, 0.0, 'assumed')
    with Session.open(tiny_bundles['tiny-llava-onevision'], policy=policy, sparsity=0.6,
                      text_sparsity=0.2, profile=profile) as session:
        answer = session.ask('how many?', pictures(1), max_new_tokens=4, on_step=seen.append)
    assert seen == answer.steps and [s.step for s in seen] == ['prefill', 'decode', 'decode',
                                                              'decode'][:len(seen)]
    prefill, decode = seen[0], seen[1]
    # Two selections of 40 % and 80 % of the rows, of a little less by greedy: their union.
    assert (0.65 if policy == 'greedy' else 0.75) < (
        prefill.rows_selected / prefill.rows_total) <= 0.95
    assert 0.2 < decode.rows_selected / decode.rows_total <= 0.41
    assert 0 < decode.importance_kept < 1
    assert answer.io.bytes_read == sum(s.bytes_read for s in seen)
    assert answer.io.chunks == sum(s.chunks for s in seen) == sum(answer.io.contiguity)
    assert all(s.bytes_used <= s.bytes_read or not s.direct_io for s in seen)
    assert all(s.profile_seconds > 0 and s.estimated_seconds > 0 for s in seen)
    # The first decode step trusts the profile; the second has learnt what reads take here.
    assert seen[1].estimated_seconds == pytest.approx(seen[1].profile_seconds)
    if len(seen) > 2:
        assert seen[2].estimated_seconds / seen[2].profile_seconds == pytest.approx(
            min(20, seen[1].read_seconds / seen[1].profile_seconds))


def test_text_prompt_dense_means_all_rows_are_read(tiny_bundles):
    with Session.open(tiny_bundles['tiny-llava-onevision'], policy='topk',
                      sparsity=0.6) as session:
        answer = session.ask('how many?', pictures(1), max_new_tokens=3)
    assert answer.steps[0].rows_selected == answer.steps[0].rows_total
    assert answer.steps[1].rows_selected < answer.steps[1].rows_total


def test_cancel_and_deadline_end_the_answer_and_leave_the_session_whole(tiny_bundles):
    bundle = tiny_bundles['tiny-llava-onevision']
    with Session.open(bundle, piece_mb=0.02) as session:
        want = session.ask('what?', pictures(1), max_new_tokens=12)
        steps = []
        answer = session.ask('what?', pictures(1), max_new_tokens=12, on_step=steps.append,
                             cancelled=lambda: len(steps) >= 3)
        assert answer.finish_reason == 'cancelled'
        assert want.text.startswith(answer.text) and 2 <= len(answer.steps) <= 4
        late = session.ask('what?', pictures(1), max_new_tokens=12, deadline=0.0)
        assert late.finish_reason == 'deadline' and late.text == '' and late.confidence == 0
        assert session.ask('what?', pictures(1), max_new_tokens=12).text == want.text


def test_deadline_is_kept(tiny_bundles):
    with Session.open(tiny_bundles['tiny-qwen2-vl'], piece_mb=0.02) as session:
        session.ask('what?', pictures(1), max_new_tokens=2)
        started = time.monotonic()
        session.ask('what?', pictures(2), max_new_tokens=400, deadline=0.2)
        assert time.monotonic() - started < 20  # 400 words would take much longer


def test_step_deadline_decides_how_much_is_read(tiny_bundles):
    """More milliseconds, more rows; plenty of them, everything and the dense answer."""
    # A drive ten thousand times slower than the real one: the deadline counts in its seconds, and
    # what a busy machine takes for computing doesn't.
    line = Line(1e-4, 1e-2)
    profile = Profile(line, line, 1.0, 1, 0.0, 'assumed')
    bundle = tiny_bundles['tiny-llava-onevision']
    with Session.open(bundle) as session:
        want = session.ask('what is it?', pictures(1), max_new_tokens=3)
    parts = []
    for deadline_ms in (1, 1500, 1e7):
        with Session.open(bundle, policy='optimal', deadline_ms=deadline_ms,
                          profile=profile) as session:
            answer = session.ask('what is it?', pictures(1), max_new_tokens=3)
        first = answer.steps[0]
        parts.append(first.rows_selected / first.rows_total)
    assert 0 < parts[0] < parts[1] < parts[2] == 1.0
    assert answer.text == want.text


def test_step_deadline_is_refused_with_dense(tiny_bundles):
    with pytest.raises(ValueError, match="policy 'dense' reads everything"):
        Session.open(tiny_bundles['tiny-llava-onevision'], deadline_ms=5)
    with Session.open(tiny_bundles['tiny-llava-onevision'], policy='optimal') as session:
        for bad in (-1, float('nan'), float('inf')):
            with pytest.raises(ValueError, match='deadline_ms'):
                session.configure(deadline_ms=bad)
        session.configure(deadline_ms=20)
        with pytest.raises(ValueError, match='dense'):
            session.configure(policy='dense')


@pytest.mark.parametrize('prompt, images, message', [
    ('', 1, 'prompt is empty'),
    ('  \n', 1, 'prompt is empty'),
    ('what? ' * 3000, 1, 'the prompt has 18000 bytes, 16384 are allowed'),
    ('é' * 16000, 1, 'the prompt has 32000 bytes, 16384 are allowed'),
    ('half \ud800', 1, 'no Unicode text: it has half of a pair at letter 6'),
    ('what?', 33, 'the question has 33 images, 32 are allowed'),
])
def test_bad_prompts(tiny_bundles, prompt, images, message):
    with Session.open(tiny_bundles['tiny-llava-onevision']) as session:
        with pytest.raises(RequestError, match=message):
            session.ask(prompt, pictures(images))


@pytest.mark.parametrize('image, message', [
    (np.zeros((0, 5, 3), np.uint8), 'empty'),
    (np.zeros((5, 5), np.uint8), 'uint8'),
    (np.zeros((5, 5, 4), np.uint8), 'uint8'),
    (np.zeros((5, 5, 3), np.float32), 'uint8'),
])
def test_bad_images(tiny_bundles, image, message):
    with Session.open(tiny_bundles['tiny-llava-onevision']) as session:
        with pytest.raises(RequestError, match=message):
            session.ask('what?', [image])


def test_context_is_bounded(tiny_bundles):
    with Session.open(tiny_bundles['tiny-llava-onevision'], max_context=64) as session:
        with pytest.raises(RequestError, match='context holds 64'):
            session.ask('what is it?', pictures(1), max_new_tokens=60)


def test_memory_budget_is_refused_with_the_numbers_before_loading(tiny_bundles):
    with pytest.raises(MemoryBudgetError, match=r'memory_budget_mb is 1, but \d+ MB are needed'):
        Session.open(tiny_bundles['tiny-llava-onevision'], memory_budget_mb=1)


@pytest.mark.parametrize('arguments, message', [
    ({'policy': 'best'}, 'unknown policy'),
    ({'sparsity': 1.0}, 'sparsity is 1.0'),
    ({'text_sparsity': -0.1}, 'text_sparsity is -0.1'),
    ({'sparsity': float('nan')}, 'sparsity is nan'),
    ({'device': 'nonsense'}, "device 'nonsense'"),
])
def test_bad_settings(tiny_bundles, arguments, message):
    with pytest.raises(ValueError, match=message):
        Session.open(tiny_bundles['tiny-llava-onevision'], **arguments)


def test_a_bundle_without_tokenizer_says_so(tiny_bundles, tmp_path):
    bundle = tmp_path / 'bundle'
    shutil.copytree(tiny_bundles['tiny-llava-onevision'], bundle)
    manifest = json.loads((bundle / 'bundle.json').read_text())
    for name in [n for n in manifest['files'] if 'token' in n or 'vocab' in n or 'merges' in n]:
        (bundle / name).unlink()
        del manifest['files'][name]
    (bundle / 'bundle.json').write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match='no usable tokenizer'):
        Session.open(bundle)


@pytest.mark.parametrize('policy', ['dense', 'topk'])
def test_a_failed_read_is_named_and_survived(tiny_bundles, tmp_path, policy):
    bundle = Path(shutil.copytree(tiny_bundles['tiny-llava-onevision'], tmp_path / 'bundle'))
    flash, = bundle.glob('flash-*')
    whole = flash.read_bytes()
    with Session.open(bundle, policy=policy, sparsity=0.5, text_sparsity=0.3,
                      piece_mb=0.02) as session:
        want = session.ask('what?', pictures(1), max_new_tokens=4).text
        os.truncate(flash, len(whole) // 2)
        with pytest.raises(ReadError, match=r'flash-.*offset'):
            session.ask('what?', pictures(1), max_new_tokens=4)
        with open(flash, 'r+b') as file:  # the same inode: the reader keeps its descriptor
            file.write(whole)
        assert session.ask('what?', pictures(1), max_new_tokens=4).text == want


def test_open_and_close_leave_nothing_behind(tiny_bundles):
    bundle = tiny_bundles['tiny-llava-onevision']

    def count():
        return len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))

    for _ in range(2):
        with Session.open(bundle) as session:
            session.ask('what?', pictures(1), max_new_tokens=2)
    before = count()
    for _ in range(5):
        with Session.open(bundle) as session:
            session.ask('what?', pictures(1), max_new_tokens=2)
        session.close()
    files, threads = count()
    # Threads of tests before may have been ending still.
    assert files == before[0] and threads <= before[1]


@pytest.mark.parametrize('family', FAMILIES)
def test_timing_accounts_for_the_answer(tiny_bundles, family):
    """The parts add up to the whole, and encoding the images is among them."""
    with Session.open(tiny_bundles[family]) as session:
        session.ask('what?', pictures(4), max_new_tokens=4)
        slow = 1.0  # far above anything else in it, also on a busy machine
        tower = session._model.model
        module = tower.visual if hasattr(tower, 'visual') else tower.vision_tower
        module.register_forward_pre_hook(lambda *_: time.sleep(slow))
        timing = session.ask('what?', pictures(4), max_new_tokens=4).timing
    parts = timing.preprocess + timing.vision + timing.prefill + timing.decode
    assert timing.vision >= slow and timing.prefill < slow
    assert parts <= timing.total and timing.total - parts < slow


@pytest.mark.parametrize('family', FAMILIES)
def test_close_frees_the_model_and_the_buffers(tiny_bundles, family):
    """At once, without the garbage collector: nothing that is large lies in a cycle."""
    session = Session.open(tiny_bundles[family], policy='topk', sparsity=0.5)
    stream = session.stream(window=1)
    stream.append(pictures(1)[0])
    steps = []
    answer = stream.ask('what?', max_new_tokens=3, on_step=steps.append,
                        on_progress=lambda *_: None, cancelled=lambda: False)
    session.ask('what?', pictures(1), max_new_tokens=3)
    late = stream.ask('what?', deadline=0.0)
    model = session._model
    large = [weakref.ref(x) for x in (
        session._products._buffer, *session._memory.keys, *session._memory.values,
        session._products, session._memory, *model.parameters(), *model.buffers())]
    assert len(large) > 50 and late.finish_reason == 'deadline'
    del model
    gc.collect()
    gc.disable()
    try:
        session.close()
        left = [ref() for ref in large if ref() is not None]
        assert [type(x).__name__ for x in left] == []
    finally:
        gc.enable()
    assert answer.steps == steps  # what was handed out stays


def test_loading_tells_how_far_it_is(tiny_bundles):
    shares = []
    with Session.open(tiny_bundles['tiny-llava-onevision'], on_progress=shares.append):
        pass
    assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares) and len(shares) > 9

    class Enough(Exception):
        pass

    def stop(share):
        if share > 0.5:
            raise Enough

    before = len(os.listdir('/proc/self/fd'))
    with pytest.raises(Enough):
        Session.open(tiny_bundles['tiny-llava-onevision'], on_progress=stop)
    assert len(os.listdir('/proc/self/fd')) == before


@pytest.mark.parametrize('images', [0, 2])
def test_progress_goes_through_the_stages(tiny_bundles, images):
    told = []
    with Session.open(tiny_bundles['tiny-qwen2-vl']) as session:
        answer = session.ask('what?', pictures(images), max_new_tokens=5,
                             on_progress=lambda *words: told.append(words))
        assert told[0] == ('preprocess', 0.0, '')
        stages = list(dict.fromkeys(stage for stage, _, _ in told))
        assert stages == (['preprocess', 'vision', 'prefill', 'decode'] if images
                          else ['preprocess', 'prefill', 'decode'])
        prefill = [share for stage, share, _ in told if stage == 'prefill']
        assert prefill[0] == 0 and prefill[-1] == 1 and prefill == sorted(prefill)
        tokens = [word for word in told if word[0] == 'decode']
        assert [share for _, share, _ in tokens] == [(i + 1) / 5 for i in range(len(tokens))]
        assert len(tokens) == len(answer.steps) and tokens[-1][2] == answer.text
        assert all(answer.text.startswith(text) for _, _, text in tokens)
        stream = session.stream(window=1)
        stream.append(pictures(1)[0])
        told.clear()
        stream.ask('what?', max_new_tokens=2, on_progress=lambda *words: told.append(words))
        assert list(dict.fromkeys(stage for stage, _, _ in told)) == [
            'preprocess', 'prefill', 'decode']


def test_names_must_be_one_each_and_new_tokens_at_least_one(tiny_bundles):
    with Session.open(tiny_bundles['tiny-llava-onevision']) as session:
        with pytest.raises(RequestError, match='3 names were given for 2 images'):
            session.ask('what?', pictures(2), names=['a', 'b', 'c'])
        with pytest.raises(RequestError, match='max_new_tokens is 0'):
            session.ask('what?', pictures(1), max_new_tokens=0)
