# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of words on flash: what is looked up is torch's own, and what the LM head costs shows."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.chunking import runs
from neuron_chunk_ros.engine import flash_embedding
from neuron_chunk_ros.engine.flash_embedding import FlashEmbedding
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.engine.step import Step
from neuron_chunk_ros.errors import BundleError, ReadError, Stopped
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.layout import LM_HEAD

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')
QUESTION = 'what colour is the circle'


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (56, 56, 3), np.uint8)


def whole_table(bundle):
    table = bundle.embedding
    return torch.from_numpy(np.fromfile(bundle.path / table.file, np.float32,
                                        table.rows * table.columns, offset=table.offset)
                            .reshape(table.rows, table.columns))


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 300)))
def test_runs_of_rows(rows):
    rows = np.array(sorted(rows), np.int64)
    found = runs.of(rows)
    assert np.array_equal(runs.indices(found), rows)
    assert (found[1:, 0] > found[:-1].sum(axis=1)).all() and (found[:, 1] > 0).all()


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(st.integers(0, 511), min_size=0, max_size=90), max_size=5),
       kept=st.integers(0, 40), most=st.integers(1, 50), direct=st.sampled_from(['auto', 'off']))
def test_it_looks_up_what_torch_does(tiny_bundles, batches, kept, most, direct):
    bundle = Bundle.open(tiny_bundles['tiny-qwen2-vl'])
    want = torch.nn.Embedding.from_pretrained(whole_table(bundle))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flash_embedding, '_KEPT', kept)
        embedding = FlashEmbedding(bundle, torch.float32, 'cpu', direct=direct)
        embedding._most = most
        for ids in batches:
            ids = torch.tensor([ids], dtype=torch.int64)
            assert torch.equal(embedding(ids), want(ids))
            assert len(embedding._kept) <= kept
        embedding.close()


def test_a_prompts_rows_are_one_batch_and_known_ones_none(tiny_bundles):
    bundle = Bundle.open(tiny_bundles['tiny-qwen2-vl'])
    embedding = FlashEmbedding(bundle, torch.float32, 'cpu', direct='off')
    submitted, submit = [], embedding._reader.submit
    embedding._reader.submit = lambda *args: submitted.append(args) or submit(*args)
    embedding.step = Step('prefill', 5)
    embedding(torch.tensor([[7, 300, 8, 7, 300]]))
    assert len(submitted) == 1
    assert embedding.step.bill.bytes_used == 3 * bundle.embedding.row_bytes
    embedding(torch.tensor([[300, 8]]))
    assert len(submitted) == 1
    embedding.close()


@pytest.mark.parametrize('token', [-1, 512, 1 << 40])
def test_a_token_that_is_none(tiny_bundles, token):
    embedding = FlashEmbedding(Bundle.open(tiny_bundles['tiny-qwen2-vl']), torch.float32, 'cpu')
    with pytest.raises(IndexError, match='not one of 512'):
        embedding(torch.tensor([[3, token]]))
    assert torch.isfinite(embedding(torch.tensor([[3]]))).all()
    embedding.close()


def test_stopped_midway_it_works_on(tiny_bundles):
    """A deadline that comes while a row is being read leaves the buffer free for the next."""
    embedding = FlashEmbedding(Bundle.open(tiny_bundles['tiny-qwen2-vl']), torch.float32, 'cpu')
    submit = embedding._reader.submit

    class Late:
        ready = False

        def __init__(self, batch):
            self.batch = batch

        def wait(self, timeout):
            time.sleep(timeout)

    embedding._reader.submit = lambda *args: Late(submit(*args))

    def stop():
        raise Stopped('deadline')

    embedding.step = Step('decode', 1, check=stop)
    with pytest.raises(Stopped) as caught:
        embedding(torch.tensor([[3]]))
    embedding._reader.submit = submit
    assert torch.isfinite(embedding(torch.tensor([[3]]))).all()
    assert caught.traceback
    embedding.close()


@pytest.mark.parametrize('family', FAMILIES)
def test_older_bundles_answer_alike(tiny_bundles, older_bundle, tmp_path, family):
    older = older_bundle(tiny_bundles[family], tmp_path / 'older')
    assert older.embedding is None and older.lm_head is None
    with Session.open(tiny_bundles[family]) as new, Session.open(older.path) as old:
        one, other = (s.ask(QUESTION, [picture()], max_new_tokens=8) for s in (new, old))
    assert one.text == other.text and one.confidence == pytest.approx(other.confidence, rel=1e-4)


@pytest.mark.parametrize('policy, sparsity, deadline_ms', [
    ('dense', 0, 0), ('topk', 0.5, 0), ('optimal', 0.5, 0), ('optimal', 0, 1e-3)])
def test_the_lm_head_is_read_by_steps_that_want_it(tiny_bundles, policy, sparsity, deadline_ms):
    """Where a budget leaves no room: all of it for a word, nothing for a frame; no row counts."""
    with Session.open(tiny_bundles['tiny-llava-onevision'], max_context=256, piece_mb=0.05
                      ) as session:
        least = session.plan.total - session.plan.heads
    with Session.open(tiny_bundles['tiny-llava-onevision'], max_context=256, piece_mb=0.05,
                      memory_budget_mb=-(-least // (1 << 20)), policy=policy, sparsity=sparsity,
                      deadline_ms=deadline_ms, drafts=False) as session:
        bundle = session.bundle
        head = session.plan.head_rows[LM_HEAD]
        assert head < bundle.lm_head.rows
        tail = (bundle.lm_head.rows - head) * bundle.lm_head.row_bytes
        stream = session.stream(window=1)
        spans = []
        session.trace(spans)
        stream.append(picture())
        assert LM_HEAD not in {group for _, group, _, _ in spans}
        for _ in range(2):
            answer = stream.ask('what?', max_new_tokens=3)
        rows = sum(group.rows for group in bundle.groups.values())
        for step in answer.steps:
            assert step.rows_total == rows
            assert step.bytes_used >= tail
        assert LM_HEAD in {group for what, group, _, _ in spans if what == 'read'}


def test_without_a_budget_the_lm_head_stays_in_memory(tiny_bundles):
    with Session.open(tiny_bundles['tiny-llava-onevision']) as session:
        assert session.plan.head_rows[LM_HEAD] == session.bundle.lm_head.rows
        session.ask('what?', [], max_new_tokens=2)
        again = session.ask('what?', [], max_new_tokens=4).steps[-1]
        word = again.bytes_used - session.bundle.decoder_bytes
        assert word in (0, session.bundle.embedding.row_bytes)


@pytest.mark.parametrize('lm_head', ['int8', 'int4', 'bfloat16', None])
def test_rows_and_lm_head_of_different_formats(tiny_models, tmp_path, lm_head):
    bundle = convert(tiny_models['tiny-qwen2-vl'], tmp_path / 'b', rows='int4', lm_head=lm_head)
    assert (bundle.rows, bundle.lm_head.dtype) == ('int4', lm_head or 'int8')
    assert bundle.embedding.dtype == 'float32'
    with Session.open(bundle.path) as session:
        assert session.ask('what?', [picture()], max_new_tokens=2).tokens == 2


def test_a_table_that_does_not_fit_the_config(tiny_bundles, tmp_path, change_side_file):
    import json
    import shutil
    folder = tmp_path / 'b'
    shutil.copytree(tiny_bundles['tiny-qwen2-vl'], folder)
    config = json.loads((folder / 'config.json').read_text())
    config['text_config']['vocab_size'] += 8
    change_side_file(folder, 'config.json', json.dumps(config).encode())
    with pytest.raises(BundleError, match='the model wants .* 520'):
        Session.open(folder)


def test_a_table_that_is_gone_while_the_session_runs(tiny_bundles, tmp_path):
    """A reading that fails ends the question, not the session."""
    import os
    import shutil
    folder = tmp_path / 'b'
    shutil.copytree(tiny_bundles['tiny-qwen2-vl'], folder)
    with Session.open(folder, direct='off') as session:
        file = session.bundle.path / session.bundle.embedding.file
        size = os.stat(file).st_size
        os.truncate(file, 4096)
        with pytest.raises(ReadError):
            session.ask('what?', [], max_new_tokens=2)
        shutil.copyfile(tiny_bundles['tiny-qwen2-vl'] / file.name, file)
        assert os.stat(file).st_size == size
        assert session.ask('what?', [], max_new_tokens=2).tokens == 2
