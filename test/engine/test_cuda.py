# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""On a GPU (tools/check_cuda.sh): the answers of plain transformers, whatever the pieces."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from neuron_chunk_ros.attention.regrouping import attend
from neuron_chunk_ros.attention.segments import Segment, SegmentTable
from neuron_chunk_ros.attention.templates import density
from neuron_chunk_ros.engine.device_copies import DeviceCopies
from neuron_chunk_ros.engine.rows import _unpacked
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.storage.packed_rows import PACKED_FORMATS, REFINEMENTS, Split

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')

QUESTION = 'what is on the table?'


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (90, 120, 3), np.uint8)


@pytest.mark.parametrize('family', ['tiny-llava-onevision', 'tiny-qwen2-vl'])
@pytest.mark.parametrize('piece_mb', [0.02, 16])
@pytest.mark.parametrize('head_mb', [0, 0.1])
def test_dense_equals_plain_transformers(tiny_models, tiny_bundles, family, piece_mb, head_mb):
    plain = AutoModelForImageTextToText.from_pretrained(tiny_models[family]).eval().cuda()
    shown = [picture(0), picture(1)]
    with Session.open(tiny_bundles[family], device='cuda', piece_mb=piece_mb, head_mb=head_mb,
                      drafts=False) as session:
        seen = []
        session._model.lm_head.register_forward_hook(
            lambda module, args, out: seen.append(out[-1].float().clone()))
        for _ in range(3):  # the heads are filled by the first
            seen.clear()
            session.ask(QUESTION, shown, max_new_tokens=4)
            inputs = session.prepare(QUESTION, shown)
            with torch.inference_mode():
                want = plain(**inputs).logits[0, -1].float()
            torch.testing.assert_close(seen[0], want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('sparsity', [0.3, 0.7])
def test_sparse_steps_equal_those_of_the_cpu(tiny_bundles, sparsity):
    answers = []
    for device in ('cpu', 'cuda'):
        with Session.open(tiny_bundles['tiny-qwen2-vl'], policy='topk', sparsity=sparsity,
                          device=device, piece_mb=0.02) as session:
            stream = session.stream(window=2)
            for seed in range(3):
                stream.append(picture(seed))
            answers.append(stream.ask(QUESTION, max_new_tokens=6))
    one, other = answers
    assert one.text == other.text
    assert [s.rows_selected for s in one.steps] == [s.rows_selected for s in other.steps]


@pytest.mark.parametrize('rows, base', [('int8', None), ('int4', None), ('int8', 4), ('int8', 3)])
def test_packed_rows_say_what_they_say_on_the_cpu(tiny_models, tmp_path, rows, base):
    bundle = convert(tiny_models['tiny-qwen2-vl'], tmp_path / 'bundle', rows=rows, base=base).path
    texts = []
    for device in ('cpu', 'cuda'):
        with Session.open(bundle, policy='topk', sparsity=0.5, device=device, piece_mb=0.02,
                          drafts=False) as session:
            texts.append([session.ask(QUESTION, [picture(seed)], max_new_tokens=6).text
                          for seed in range(2)])
    assert texts[0] == texts[1]


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('picks', [False, True])
@pytest.mark.parametrize('refined', [False, True])
def test_triton_widens_rows_as_torch_does(dtype, picks, refined):
    triton_rows = pytest.importorskip('neuron_chunk_ros.engine.triton_rows',
                                      reason='Triton is not installed here')
    rng, columns = np.random.default_rng(0), 4868
    for base, rest in ((4, 4), (3, 5), (2, 6)):
        split = Split(PACKED_FORMATS[f'int{base}-16'], REFINEMENTS[f'plus{rest}'])
        fine, scales = split.quantise(rng.standard_normal((300, columns)).astype(np.float32))
        high, low = split.cut(fine)
        packed = torch.from_numpy(split.base.pack(high, scales)).cuda()
        places = torch.from_numpy(rng.permutation(300)[:200]).cuda()
        some = packed[places] if picks else packed
        finer = torch.from_numpy(split.refinement.pack(low)).cuda() if refined else None
        finer = finer[places].contiguous() if refined and picks else finer
        out = torch.empty(len(some), columns, dtype=dtype, device='cuda')
        triton_rows.widen_segment(packed, split.base, out, places if picks else None, finer,
                                  split.refinement)
        want = _unpacked(some, split.base, columns, finer, split.refinement.bits).to(dtype)
        assert torch.equal(out, want)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('width', [64, 80, 128])
def test_heads_by_class_are_regrouped_heads(dtype, width):
    triton_prefill = pytest.importorskip('neuron_chunk_ros.attention.triton_prefill',
                                         reason='Triton is not installed here')
    table = SegmentTable([Segment(14), *[Segment(197, True, (196,))] * 5, Segment(30)])
    for new in (table.tokens, 227):
        query = torch.randn(1, 8, new, width, device='cuda').to(dtype)
        key, value = (torch.randn(1, 4, table.tokens, width, device='cuda').to(dtype)
                      for _ in range(2))
        classes = [0, 1, 2, 3] * 2
        got = triton_prefill.attend(query, key, value, table, classes)
        torch.testing.assert_close(got, attend(query, key, value, table, classes), rtol=0.02,
                                   atol=0.02)


def test_long_prompts_are_faster_by_class():
    """36,000 tokens, every head Intra-Image+Sink: what it takes beside SDPA's flash kernel."""
    triton_prefill = pytest.importorskip('neuron_chunk_ros.attention.triton_prefill',
                                         reason='Triton is not installed here')
    table = SegmentTable([Segment(14), *[Segment(197, True, (196,))] * 183, Segment(30)])
    query, key, value = (torch.randn(1, 28, table.tokens, 128, device='cuda',
                                     dtype=torch.bfloat16) for _ in range(3))

    def seconds(run):
        run()
        torch.cuda.synchronize()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(5):
            run()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 5e3

    dense = seconds(lambda: torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True))
    ours = seconds(lambda: triton_prefill.attend(query, key, value, table, [1] * 28))
    print(f'{table.tokens} tokens: SDPA {1e3 * dense:.1f} ms, by class {1e3 * ours:.1f} ms, '
          f'{dense / ours:.2f}x, density {density(table, 1):.3f}')
    assert ours < dense


def test_a_buffer_is_not_filled_while_it_is_copied():
    """Without its events this fails: the copy is large, the host overwrites at once."""
    half = 64 << 20
    memory = torch.empty(2 * half, dtype=torch.uint8)
    copies, copied = DeviceCopies(memory, half, torch.device('cuda')), [None, None]
    try:
        sums = []
        for turn in range(40):
            place = memory[turn % 2 * half:][:half]
            if copied[turn % 2] is not None:
                copied[turn % 2].synchronize()
            place.fill_(turn % 251)
            found = copies.copy(place)
            sums.append((found.min(), found.max()))
            copied[turn % 2] = copies.release()
        for turn, (least, most) in enumerate(sums):
            assert int(least) == int(most) == turn % 251
    finally:
        copies.close()


def test_products_run_beside_copies():
    """The trace of one dense step: copies don't make the host wait."""
    memory = [torch.ones(256 << 20, dtype=torch.uint8)]
    copies = DeviceCopies(memory, torch.device('cuda'))
    try:
        assert copies.pinned
        copies.copy(0, memory[0])
        event = copies._copied[0]
        copies.release()
        assert not event.query()  # we are here, the copy is still under way
    finally:
        copies.close()
