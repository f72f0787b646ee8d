# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows in two parts: a base that is held, a refinement on flash; nothing is ever missing."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.chunking import runs
from neuron_chunk_ros.engine import rows as stored_rows
from neuron_chunk_ros.engine.products import Scratch, Sum
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import BundleError, MemoryBudgetError, ModelError
from neuron_chunk_ros.families import PromptPart
from neuron_chunk_ros.prepare.calibrate import calibrate
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.restore import restore
from neuron_chunk_ros.prepare.rewrite import rewrite
from neuron_chunk_ros.storage.bundle import Bundle, Group, Member
from neuron_chunk_ros.storage.packed_rows import PACKED_FORMATS, REFINEMENTS, Split
from neuron_chunk_ros.storage.verify import verify

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')
SPLITS = [('int8', 4), ('int8', 3), pytest.param(('int6', 2), marks=pytest.mark.slow),
          pytest.param(('int5', 3), marks=pytest.mark.slow)]
QUESTION = 'what is in the picture?'


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (56, 56, 3), np.uint8)


@pytest.fixture(scope='module', params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope='module', params=SPLITS)
def split(request, family, tiny_models, tmp_path_factory):
    """Give a bundle whose rows are in two parts, float32 elsewhere."""
    rows, base = request.param
    return convert(tiny_models[family], tmp_path_factory.mktemp('split') / 'bundle', rows=rows,
                   base=base)


def answer(bundle, **how):
    with Session.open(bundle.path, **how) as session:
        return session.ask(QUESTION, [picture()], max_new_tokens=12)


@pytest.mark.parametrize('how', [{}, {'piece_mb': 0.02}, {'head_mb': 0.05, 'piece_mb': 0.02},
                                 {'head_mb': 99}])
def test_refined_everywhere_it_is_the_finer_model(split, how):
    plain = restore(split.path)
    with Session.open(split.path, drafts=False, **how) as session:
        inputs = session.prepare(QUESTION, [picture()])
        for _ in range(2):  # heads are filled by the first
            got = session.ask(QUESTION, [picture()], max_new_tokens=12)
        text = session._prompts.tokenizer.decode
        want = plain.generate(**inputs, max_new_tokens=12, do_sample=False)
        assert got.text == text(want[0, inputs['input_ids'].shape[1]:],
                                skip_special_tokens=True).strip()
    held = sum(group.base.nbytes for group in split.groups.values())
    assert all(step.bytes_held >= held for step in got.steps)


@settings(max_examples=150, deadline=None)
@given(base=st.sampled_from(['int4-16', 'int3-16', 'int2-16', 'int4']),
       bits=st.sampled_from([2, 4, 5]), tokens=st.sampled_from([1, 2, 7, 8, 9, 33]),
       widths=st.lists(st.integers(1, 90), min_size=1, max_size=3), rows=st.integers(1, 200),
       dtype=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 2 ** 32))
def test_products_of_coarse_and_fine_rows(base, bits, tokens, widths, rows, dtype, seed):
    """x @ base, and the refinement's share for the rows that have come, in any pieces."""
    made = PACKED_FORMATS[base]
    both = Split(made, REFINEMENTS[f'plus{min(bits, 8 - made.bits)}'])
    rng, name = np.random.default_rng(seed), both.refinement.name
    parts = [both.quantise(rng.standard_normal((rows, width)).astype(np.float32))
             for width in widths]
    cut = [(*both.cut(fine), scales) for fine, scales in parts]
    high = np.concatenate([made.pack(top, scales) for top, _, scales in cut], axis=1)
    low = np.concatenate([both.refinement.pack(rest) for _, rest, _ in cut], axis=1)
    members = tuple(Member(str(number), width) for number, width in enumerate(widths))
    held = Group('g.base', 'b', 'g.base', 0, rows, sum(widths), high.shape[1], base, members, '')
    group = Group('g', 'f', 'g', 0, rows, sum(widths), low.shape[1], name, members, '', base=held)
    fine = np.flatnonzero(rng.random(rows) < rng.random())
    pieces = np.split(fine, sorted(rng.integers(0, len(fine) + 1, 2)))
    inputs = torch.from_numpy(rng.standard_normal((tokens, rows)).astype(np.float32)).to(dtype)
    total = Sum(inputs, group, Scratch(), torch.from_numpy(high))
    total.add_base(runs.difference(runs.whole(rows), runs.of(fine)) if len(fine)
                   else runs.whole(rows))
    for piece in pieces:
        if len(piece):
            total.add(runs.of(piece), torch.from_numpy(np.ascontiguousarray(low[piece])))
    values = made.unpack_rows(high, widths).astype(np.float64)
    values[fine] = both.unpack_rows(high, low, widths)[fine]
    want = inputs.double().numpy() @ values
    size = np.abs(inputs.double().numpy()) @ np.abs(values) + 1e-6
    allowed = 1e-5 if dtype == torch.float32 else 2e-2
    assert (np.abs(total.result().double().numpy() - want) <= allowed * size).all()
    # Unpacked by torch's own operations, as on a GPU, they are the same.
    plain = torch.empty(rows, sum(widths))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_rows, '_UNPACKED', {})
        stored_rows.widen_split(torch.from_numpy(high), None, torch.from_numpy(low), group, plain)
    np.testing.assert_array_equal(plain.numpy(), both.unpack_rows(high, low, widths))


def test_coarse_rows_are_not_read(split):
    whole = answer(split, drafts=False)
    some = answer(split, policy='topk', sparsity=0.6, text_sparsity=0.6)
    assert 0 < some.io.bytes_used < 0.75 * whole.io.bytes_used
    assert some.io.rows_selected < some.io.rows_total


def test_the_model_drafts_and_says_the_same(split):
    """What is held drafts; a pass verifies. The words are those of one at a time."""
    with_drafts = answer(split, head_mb=0)
    without = answer(split, drafts=False, head_mb=0)
    assert (with_drafts.text, with_drafts.tokens) == (without.text, without.tokens)
    drafts = [step for step in with_drafts.steps if step.step == 'draft']
    # Each looks its token up in the embedding table, and reads nothing else.
    assert drafts and all(step.bytes_used <= split.embedding.row_bytes for step in drafts)
    passes = [step for step in with_drafts.steps if step.step == 'decode']
    assert sum(step.tokens_drafted for step in passes) > 0
    assert len(passes) <= len([step for step in without.steps if step.step == 'decode'])


@pytest.mark.parametrize('how', [{'rows': 'int8', 'base': 4}, {'rows': 'int8', 'base': 3}, {}])
@pytest.mark.parametrize('head_mb', [0, 0.05, 99])
def test_several_tokens_say_what_single_ones_do(family, tiny_models, tmp_path, how, head_mb):
    """To the last bit, also in bfloat16: words about as likely would change places otherwise."""
    made = convert(tiny_models[family], tmp_path / 'bundle', 'bfloat16', **how)
    ids = torch.from_numpy(np.random.default_rng(0).integers(3, 300, 44))
    with Session.open(made.path, drafts=False, head_mb=head_mb, piece_mb=0.02) as session, \
            torch.inference_mode():
        def logits(parts):
            cache, start, found = session._memory.cache(0), 0, []
            with session._runner.work(None, None, None):
                for part in parts:
                    start, _, out = session._runner.step(
                        'decode', PromptPart(part[None]), cache, start, logits=len(part))
                    found.append(out)
            cache.truncate(0)
            return torch.cat(found)

        logits([ids])  # fills heads: rows that are held are added up in other tiles
        single = logits([ids[:20], *ids[20:].split(1)])
        off = [float((logits([ids[:20], *ids[20:].split(count)]) - single).abs().max())
               for count in (2, 5, 8)]
        assert off == [0, 0, 0]


def test_there_and_back_to_the_byte(split, tmp_path):
    shutil.copytree(split.path, tmp_path / 'calibrated')
    calibrate(tmp_path / 'calibrated', [(QUESTION, [picture(seed)]) for seed in range(2)])
    there = rewrite(tmp_path / 'calibrated', tmp_path / 'there', 'hot-cold', 'separate')
    assert there.rows == split.rows and there.order == 'hot-cold' and not verify(there)
    back = rewrite(there.path, tmp_path / 'back', 'original', 'bundled')
    for group in split.groups.values():
        for mine, theirs in ((back.groups[group.name], group),
                             (back.groups[group.name].base, group.base)):
            assert mine.checksum == theirs.checksum, mine.name
    assert answer(there, drafts=False).text == answer(split, drafts=False).text


def test_memory_counts_bases(split):
    with pytest.raises(MemoryBudgetError, match='bases of rows'):
        Session.open(split.path, memory_budget_mb=1)
    with Session.open(split.path) as session:
        memory = session.memory()
        assert memory['bases'] >= split.base_bytes / 2**20 > 0
        assert memory['total'] == pytest.approx(sum(
            value for name, value in memory.items() if name not in ('total', 'flash')))


def test_a_damaged_base_is_named(split, tmp_path):
    copy = shutil.copytree(split.path, tmp_path / 'copy')
    base = next(iter(split.bases.values()))
    with open(copy / base.file, 'r+b') as file:
        file.seek(base.offset + 5)
        file.write(b'damage')
    assert [line.split()[1] for line in verify(Bundle.open(copy))] == [base.name]


@pytest.mark.parametrize('change, fault', [
    (lambda m: m.update(version=3), 'not known'),
    (lambda m: m.update(bases=[]), 'at least one'),
    (lambda m: m.update(bases={}), 'must be a list'),
    (lambda m: m['bases'].pop(), 'need a base'),
    (lambda m: m['bases'][-1].update(name='other.base'), 'need a base'),
    (lambda m: m['bases'].append({**m['bases'][0], 'name': 'x.base'}), 'no group has this base'),
    (lambda m: m['bases'][0].update(dtype='plus4'), 'row_bytes|no row'),
    (lambda m: m['bases'][0].update(dtype='float32'), 'row_bytes|no base'),
    (lambda m: m['bases'][0].update(permutation={'tensor': 'x', 'absorbed_by': []}),
     'permutation|order is that'),
    (lambda m: m.update(rows='int8'), 'rows is'),
])
def test_manifests_that_contradict_themselves(split, tmp_path, change, fault):
    copy = shutil.copytree(split.path, tmp_path / 'copy')
    manifest = json.loads((copy / 'bundle.json').read_text())
    assert manifest['version'] == 4
    change(manifest)
    (copy / 'bundle.json').write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=fault):
        Bundle.open(copy)


@pytest.mark.parametrize('rows, base, fault', [
    ('int4', 4, 'rows are int5, int6 or int8'), (None, 4, 'rows are'), ('int8', 5, '2, 3 or 4'),
    ('int5', 4, 'at least 2 bits'), ('int8', 8, '2, 3 or 4'), ('int8', 0, '2, 3 or 4')])
def test_splits_that_there_are_not(tiny_models, tmp_path, rows, base, fault):
    with pytest.raises(ModelError, match=fault):
        convert(tiny_models['tiny-qwen2-vl'], tmp_path / 'out', rows=rows, base=base)
    assert not (tmp_path / 'out').exists()
