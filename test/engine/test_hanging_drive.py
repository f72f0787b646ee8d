# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A read that never returns: nobody waits for it beyond what was asked, and all is well after."""

import threading
import time

import numpy as np
import pytest
from faulty_reader import FaultyReader, HangingBatch

from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import ReadError, Stopped
from neuron_chunk_ros.prepare.convert import convert

QUESTION = 'what is in the picture?'
PICTURE = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
FOREVER = 5.0  # seconds that tell waiting in vain from anything else


@pytest.fixture(scope='module', params=['whole rows', 'two parts'])
def bundle(request, tiny_models, tmp_path_factory):
    how = {} if request.param == 'whole rows' else {'rows': 'int8', 'base': 4}
    target = tmp_path_factory.mktemp('hangs') / 'bundle'
    return convert(tiny_models['tiny-qwen2-vl'], target, **how)


def open_session(bundle, **how):
    return Session.open(bundle.path, on_drive_fault='fail', drafts=False, head_mb=0,
                        piece_mb=0.02, **how)


def ask(session, **how):
    return session.ask(QUESTION, [PICTURE], max_new_tokens=6, **how)


def recovered(session):
    began = time.monotonic()
    while not session._products.drive.usable():
        assert time.monotonic() - began < FOREVER
        time.sleep(0.001)


@pytest.mark.parametrize('how', [{}, {'policy': 'topk', 'sparsity': 0.5}])
def test_at_any_read_nobody_waits_in_vain(bundle, how):
    with open_session(bundle, **how) as session:
        ask(session)
        counter = FaultyReader(session, lambda number: False)
        fine = ask(session)
        reads = counter.count
        session._products.reader = counter._reader
        for bad in range(0, reads - 9, max(1, reads // 4)):
            faulty = FaultyReader(session, lambda number, bad=bad: number == bad, hangs=True)
            began = time.monotonic()
            late = ask(session, cancelled=lambda: session.read_under_way() > 0.1)
            if faulty.count <= bad:  # less was read this time: what pays is learnt
                assert late.finish_reason != 'cancelled'
                session._products.reader = faulty._reader
                continue
            assert late.finish_reason == 'cancelled' and session.read_under_way() > 0.1
            with pytest.raises(ReadError, match='a read has been under way for'):
                ask(session)  # at once, whatever it would wait for
            assert time.monotonic() - began < FOREVER
            faulty.back.set()
            recovered(session)
            assert session.read_under_way() == 0
            again = ask(session)
            assert again.tokens == fine.tokens and (how or again.text == fine.text)
            session._products.reader = faulty._reader


def test_who_waits_without_a_deadline_hears_after_read_timeout(bundle):
    with open_session(bundle, read_timeout=0.4) as session:
        fine = ask(session)
        faulty = FaultyReader(session, lambda number: number == 5, hangs=True)
        with pytest.raises(ReadError, match='has not come back for 0.4 s'):
            ask(session)
        faulty.back.set()
        recovered(session)
        assert ask(session).text == fine.text


def test_cancelled_while_it_hangs(bundle):
    with open_session(bundle) as session:
        stream = session.stream(window=1)
        stream.append(PICTURE)
        fine = stream.ask(QUESTION, max_new_tokens=3)
        faulty = FaultyReader(session, lambda number: number == 2, hangs=True)
        began = time.monotonic()
        with pytest.raises(Stopped, match='cancelled'):
            stream.append(PICTURE, cancelled=lambda: time.monotonic() > began + 0.2)
        assert time.monotonic() - began < FOREVER
        with pytest.raises(ReadError, match='under way'):
            stream.append(PICTURE)
        session.configure(policy='greedy', sparsity=0.4)  # takes back what was read ahead
        session.configure(policy='dense', sparsity=0)
        faulty.back.set()
        recovered(session)
        assert stream.ask(QUESTION, max_new_tokens=3).text == fine.text
        stream.append(PICTURE)


def test_the_table_of_words_hangs(bundle):
    with open_session(bundle) as session:
        words, back = session._model.get_input_embeddings(), threading.Event()
        submit = words._reader.submit
        words._reader.submit = lambda *args: HangingBatch(submit(*args), back)
        began = time.monotonic()
        assert ask(session, deadline=0.3).finish_reason == 'deadline'
        with pytest.raises(ReadError, match='under way'):
            ask(session)
        assert time.monotonic() - began < FOREVER
        words._reader.submit = submit
        back.set()
        recovered(session)
        assert ask(session).tokens


def test_closed_while_it_hangs(bundle):
    """What the drive may still write to stays; what is left behind is closed later."""
    session = open_session(bundle)
    faulty = FaultyReader(session, lambda number: number == 3, hangs=True)
    ask(session, deadline=0.2)
    reader, began = faulty._reader, time.monotonic()
    session.close()
    assert time.monotonic() - began < FOREVER
    buffer = reader.allocate(4096)
    reader.submit(0, [[0, 8]], buffer)  # not closed yet
    faulty.back.set()
    while time.monotonic() < began + FOREVER:
        try:
            reader.submit(0, [[0, 8]], buffer).wait()
        except ReadError:
            break
        time.sleep(0.01)
    with pytest.raises(ReadError, match='closed'):
        reader.submit(0, [[0, 8]], buffer)
