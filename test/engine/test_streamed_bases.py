# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Less memory than bases take: some are read for each step, and nothing else changes."""

import dataclasses
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.engine.bases import base_bytes, held_bases, slot_bytes, to_stream
from neuron_chunk_ros.engine.forecast import forecast
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import MemoryBudgetError, ReadError
from neuron_chunk_ros.prepare import presets
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.synthesize import synthesize
from neuron_chunk_ros.storage.bundle import Bundle

QUESTION = 'what is in the picture?'
MIB = 1 << 20


@pytest.fixture(scope='module')
def split(tmp_path_factory):
    """Give a bundle with bases of about 13 MB."""
    folder = tmp_path_factory.mktemp('streamed')
    tiny = presets.PRESETS['tiny-llava-onevision']
    text = {**tiny.config['text_config'], 'hidden_size': 512, 'intermediate_size': 1536,
            'num_hidden_layers': 6, 'max_window_layers': 6}
    preset = dataclasses.replace(tiny, config={**tiny.config, 'text_config': text})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, 'wider', preset)
        model = synthesize('wider', folder / 'model', dtype='float32', seed=2)
    return convert(model, folder / 'bundle', 'float32', rows='int8', base=4)


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (56, 56, 3), np.uint8)


def asked(session):
    found = []
    # 'optimal' counts what an idle drive brought ahead: not the same at any time
    for how in ({'policy': 'dense'}, {'policy': 'topk', 'sparsity': 0.7, 'text_sparsity': 0.7}):
        session.configure(**how)
        found.append(session.ask(QUESTION, [picture()], max_new_tokens=6))
    stream = session.stream(2)
    for seed in range(3):
        stream.append(picture(seed))
        found.append(stream.ask(QUESTION, max_new_tokens=3))
    return found


@pytest.fixture(scope='module')
def want(split):
    with Session.open(split.path, drafts=False, max_context=256, head_mb=0) as session:
        return session.plan.total, [one.text for one in asked(session)]


def least(split, mb):
    """Return the smallest budget that opens, below one that does."""
    while True:
        try:
            forecast(split, mb, max_context=256)
        except MemoryBudgetError:
            return mb + 1
        mb -= 1


@pytest.mark.slow
def test_any_budget_says_the_same(split, want, capsys):
    total, texts = want
    most = -(-total // MIB)
    fewest = least(split, most)
    assert most - fewest >= 6, 'bases can be left on flash'
    numbers = set()
    for mb in sorted({round(mb) for mb in np.linspace(fewest, most, 6)}):
        with Session.open(split.path, memory_budget_mb=mb, max_context=256, head_mb=0) as session:
            answers = asked(session)
            assert [one.text for one in answers] == texts, mb
            streamed = session.plan.streamed
            numbers.add(len(streamed))
            assert session.plan.total <= mb * MIB
            assert any('bases: they are read for each step' in note
                       for note in session.notes) == bool(streamed)
            assert (session._runner._speculation is None) == bool(streamed)
            # a word reads at least what is streamed of the decoder
            word = answers[0].steps[-1]
            assert word.bytes_read >= sum(split.bases[name].nbytes for name in streamed)
            assert not any(one.io.coarse for one in answers)
    assert max(numbers) == len(split.multiplied) and 0 in numbers and len(numbers) > 2
    assert main(['inspect', str(split.path), '--memory-budget-mb', str(fewest), '--max-context',
                 '256']) == 0
    assert f"{max(numbers)} of {len(split.multiplied)} groups' are read" in capsys.readouterr().out


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1.2))
def test_the_bases_held_are_as_many_as_fit(split, share):
    whole = base_bytes(split, False)
    nbytes = int(share * whole)
    streamed = to_stream(split, nbytes)
    names = set(held_bases(split, False))
    taken = base_bytes(split, False, streamed) + slot_bytes(split, streamed)
    assert set(streamed) <= names
    if nbytes >= whole:
        assert not streamed
    elif nbytes >= slot_bytes(split, names):
        assert taken <= nbytes
        # no other one of these fits beside them
        for name in streamed:
            fewer = [one for one in streamed if one != name]
            assert (base_bytes(split, False, fewer) + slot_bytes(split, fewer) > nbytes)
    else:
        assert set(streamed) == names


def test_a_fault_ends_the_answer_and_the_next_one_is_right(split, want, tmp_path):
    import shutil
    total, texts = want
    copy = Bundle.open(shutil.copytree(split.path, tmp_path / 'copy'))
    mb = least(split, -(-total // MIB))
    with Session.open(copy.path, memory_budget_mb=mb, max_context=256, direct='off',
                      head_mb=0) as session:
        assert len(session.plan.streamed) == len(split.multiplied)
        base = copy.bases[list(copy.multiplied)[3]]
        file = copy.path / base.file
        kept = file.read_bytes()
        os.truncate(file, base.offset + base.nbytes // 2)
        for _ in range(2):
            with pytest.raises(ReadError, match=base.file):
                session.ask(QUESTION, [picture()])
        file.write_bytes(kept)
        assert session.ask(QUESTION, [picture()], max_new_tokens=6).text == texts[0]
