# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A drive that fails or hangs: rows in two parts go on with what is held, whole ones say so."""

import copy
import dataclasses
import os
import shutil
import time

import numpy as np
import pytest
from faulty_reader import FaultyReader

from neuron_chunk_ros.engine import drive as drives
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import MemoryBudgetError, ReadError
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.presets import PRESETS
from neuron_chunk_ros.prepare.rewrite import rewrite
from neuron_chunk_ros.prepare.synthesize import synthesize
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.verify import verify

QUESTION = 'what is in the picture?'
PICTURE = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)


@pytest.fixture(scope='module', params=[
    'tiny-qwen2-vl', pytest.param('tiny-llava-onevision', marks=pytest.mark.slow)])
def bundle(request, tiny_models, tmp_path_factory):
    return convert(tiny_models[request.param], tmp_path_factory.mktemp('faults') / 'bundle',
                   rows='int8', base=4)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(drives, '_PATIENCE', 0.3)
    monkeypatch.setattr(drives, '_AGAIN', 0.0)


def ask(session, **how):
    return session.ask(QUESTION, [PICTURE], max_new_tokens=6, **how)


def base_alone(bundle, target):
    """Copy a bundle whose refinements say nothing and whose words are coarse."""
    shutil.copytree(bundle.path, target)
    for group in [*bundle.multiplied.values(), bundle.embedding]:
        if group is bundle.embedding:
            path = bundle.path / group.base.file
            raw = np.fromfile(path, np.uint8, group.base.nbytes, offset=group.base.offset)
            rows = group.base.format.unpack_rows(raw.reshape(group.rows, -1), group.widths)
        else:
            rows = np.concatenate([group.format.pack(np.zeros((group.rows, width), np.int8))
                                   for width in group.widths], axis=1)
        with open(target / group.file, 'r+b') as file:
            file.seek(group.offset)
            file.write(rows.tobytes())
            assert rows.nbytes == group.nbytes
    return target


def test_with_no_drive_at_all_it_is_the_coarse_model(bundle, tmp_path):
    with Session.open(base_alone(bundle, tmp_path / 'coarse'), drafts=False) as session:
        want = ask(session)
        assert not want.io.coarse
    with Session.open(bundle.path, drafts=False) as session:
        fine = ask(session)
    with Session.open(bundle.path, drafts=False, head_mb=0) as session:
        FaultyReader(session, lambda number: True)
        session._model.get_input_embeddings()._reader.close()
        got = ask(session)
    assert (got.text, got.io.coarse) == (want.text, True) and got.text != fine.text
    assert got.confidence == pytest.approx(want.confidence, rel=1e-3)
    assert got.io.fault and got.io.bytes_used == 0
    assert got.io.rows_selected == 0 < got.io.rows_total and got.io.importance_kept == 0


@pytest.mark.parametrize('hangs', [False, True])
@pytest.mark.parametrize('how', [{}, {'policy': 'topk', 'sparsity': 0.5, 'text_sparsity': 0.5}])
def test_a_fault_at_any_read(bundle, how, hangs):
    """Answers go on, marked; once the drive is back they are fine again, by themselves."""
    with Session.open(bundle.path, drafts=False, head_mb=0, piece_mb=0.02, **how) as session:
        ask(session)  # words are known from here on
        counter = FaultyReader(session, lambda number: False)
        fine = ask(session)
        reads, ahead = counter.count, 9  # the last ones may be the next answer's
        session._products.reader = counter._reader
        for bad in range(0, reads - ahead, max(1, reads // (3 if hangs else 8))):
            faulty = FaultyReader(session, lambda number, bad=bad: number == bad, hangs)
            began = time.monotonic()
            got = ask(session)
            assert got.io.coarse and got.tokens and got.io.fault, bad
            assert time.monotonic() - began < 5
            assert got.io.rows_total == fine.io.rows_total or got.tokens != fine.tokens
            faulty.back.set()
            while not session._products.drive.usable():
                time.sleep(0.001)  # reads under way come back
            again = ask(session)
            assert (again.text, again.io.coarse, again.io.fault) == (fine.text, False, '')
            assert again.io.bytes_used == fine.io.bytes_used
            session._products.reader = faulty._reader


def test_files_that_go_and_come_back(bundle, tmp_path):
    """Nothing injected: the files are cut short under an open session, then whole again."""
    path = shutil.copytree(bundle.path, tmp_path / 'bundle')
    with Session.open(path, direct='off', head_mb=0) as session:
        fine, kept = ask(session), {}
        for file in {group.file for group in bundle.multiplied.values()}:
            kept[file] = (path / file).read_bytes()
            os.truncate(path / file, 0)
        got = ask(session)
        assert got.io.coarse and got.tokens and 'ends at offset' in got.io.fault
        for file, data in kept.items():
            (path / file).write_bytes(data)
        got = ask(session)
        assert (got.text, got.io.coarse) == (fine.text, False)


def test_told_to_fail_it_fails_and_holds_no_words(bundle):
    with Session.open(bundle.path, on_drive_fault='fail') as session:
        less = session.memory()['bases']
        fine = ask(session)
        faulty = FaultyReader(session, lambda number: number == 3)
        with pytest.raises(ReadError, match='read 3 failed'):
            ask(session)
        faulty.back.set()
        assert ask(session).text == fine.text
    with Session.open(bundle.path) as session:
        assert session.memory()['bases'] >= less
    with pytest.raises(ValueError, match='on_drive_fault'):
        Session.open(bundle.path, on_drive_fault='what')


@pytest.mark.parametrize('how', ['fail', 'coarse'])
def test_words_that_can_not_be_read(bundle, how):
    """The table of words has a reader of its own, on the same drive."""
    with Session.open(bundle.path, on_drive_fault=how, drafts=False) as session:
        words = session._model.get_input_embeddings()
        reader, bad = words._reader, True

        class Unlucky:
            def __getattr__(self, name):
                return getattr(reader, name)

            def submit(self, *args):
                if bad:
                    raise ReadError('no words')
                return reader.submit(*args)

        words._reader = Unlucky()
        if how == 'fail':
            with pytest.raises(ReadError, match='no words'):
                ask(session)
        else:
            assert ask(session).io.fault == 'no words'
        bad = False
        fine = ask(session)
        assert not fine.io.coarse and fine.io.bytes_used
        words._reader = reader


def test_whole_rows_have_nothing_that_stands_in(tiny_bundles):
    with Session.open(tiny_bundles['tiny-qwen2-vl']) as session:
        FaultyReader(session, lambda number: number == 3)
        with pytest.raises(ReadError, match='read 3 failed'):
            ask(session)


def test_a_head_that_is_whole_says_what_it_lacks(tiny_models, tmp_path):
    """An LM head without a base and not in memory can't be done without."""
    made = convert(tiny_models['tiny-qwen2-vl'], tmp_path / 'bundle', rows='int8', base=4,
                   lm_head='int8')
    assert made.lm_head.base is None and made.embedding.base is not None
    with Session.open(made.path, memory_budget_mb=300, head_mb=0) as session:
        fine = ask(session)
        faulty = FaultyReader(session, lambda number: number == 0)
        with pytest.raises(ReadError, match='read 0 failed'):
            ask(session)
        faulty.back.set()
        assert ask(session).text == fine.text


def test_no_time_for_reading(bundle, monkeypatch):
    """An answer's deadline that a pass would miss is kept by what is held, and it is said."""
    with Session.open(bundle.path, drafts=False, head_mb=0) as session:
        fine = ask(session, deadline=30)
        assert not fine.io.coarse
        monkeypatch.setattr(session._products.chooser, 'foretold', lambda step: 60.0)
        hurried = ask(session, deadline=30)
        assert hurried.io.coarse and hurried.io.fault == '' and hurried.tokens
        assert hurried.io.rows_selected == 0
        monkeypatch.undo()
        again = ask(session, deadline=30)
        assert (again.text, again.io.coarse) == (fine.text, False)


def test_tables_in_two_parts_are_kept_through_a_rewrite(bundle, tmp_path):
    there = rewrite(bundle.path, tmp_path / 'there', 'original', 'separate')
    back = Bundle.open(rewrite(there.path, tmp_path / 'back', 'original', 'bundled').path)
    assert not verify(back)
    for mine, theirs in ((back.embedding, bundle.embedding), (back.lm_head, bundle.lm_head)):
        assert mine.checksum == theirs.checksum
        assert mine.base.checksum == theirs.base.checksum


def test_words_are_held_where_there_is_room(tmp_path):
    config = copy.deepcopy(PRESETS['tiny-llava-onevision'].config)
    config['text_config']['vocab_size'] = 120_000
    synthesize(dataclasses.replace(PRESETS['tiny-llava-onevision'], config=config),
               tmp_path / 'model')
    made = convert(tmp_path / 'model', tmp_path / 'bundle', rows='int8', base=4)
    assert made.embedding.base.nbytes > 4 << 20
    with Session.open(made.path) as session:
        assert session.plan.coarse_words and not any('coarse words' in n for n in session.notes)
        needed = -(-(session.plan.total - session.plan.heads) // 2**20)
    with Session.open(made.path, memory_budget_mb=needed) as session:
        assert session.plan.coarse_words
    with Session.open(made.path, memory_budget_mb=needed - 2, drafts=False) as session:
        assert not session.plan.coarse_words and any('coarse words' in n for n in session.notes)
        fine = ask(session)
        session._model.get_input_embeddings()._reader.close()
        assert ask(session).text == fine.text, 'known from before'
        with pytest.raises(ReadError):
            session.ask('who are you?', [PICTURE])


def test_memory_has_room_for_the_words(bundle):
    words = bundle.embedding.base.nbytes
    assert words and sum(base.nbytes for base in bundle.bases.values()) == bundle.base_bytes
    with pytest.raises(MemoryBudgetError, match='bases of rows'):
        Session.open(bundle.path, memory_budget_mb=1)
