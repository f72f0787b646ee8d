# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows cut elsewhere: what they stand for stays the same to the bit, or nothing is written."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.restore import restore
from neuron_chunk_ros.prepare.rewrite import rewrite
from neuron_chunk_ros.prepare.splits import split_of
from neuron_chunk_ros.storage.verify import verify

CUTS = [pair for bits in ('int5', 'int6', 'int8')
        for pair in itertools.permutations(
            [split_of(bits, base) for base in (2, 3, 4) if int(bits[3:]) - base >= 2], 2)]


@settings(max_examples=80, deadline=None)
@given(pair=st.sampled_from(CUTS), widths=st.lists(st.integers(1, 70), min_size=1, max_size=3),
       rows=st.integers(1, 9), seed=st.integers(0, 2 ** 32))
def test_rows_stand_for_the_same_or_are_refused(pair, widths, rows, seed):
    before, after = pair
    rng = np.random.default_rng(seed)
    parts = [before.quantise(rng.standard_normal((rows, width), np.float32)) for width in widths]
    cut = [before.cut(fine) for fine, _ in parts]
    base = np.concatenate([before.base.pack(high, scales) for (high, _), (_, scales)
                           in zip(cut, parts, strict=True)], axis=1)
    low = np.concatenate([before.refinement.pack(one) for _, one in cut], axis=1)
    want = before.unpack_rows(base, low, widths)
    fits = all(int(fine.max()) <= after.largest for fine, _ in parts)
    if not fits:
        assert after.base.bits < before.base.bits
        with pytest.raises(ValueError, match='out of the range'):
            before.recut(base, low, widths, after)
        return
    new, rest = before.recut(base, low, widths, after)
    np.testing.assert_array_equal(after.unpack_rows(new, rest, widths), want)
    again = after.recut(new, rest, widths, before)
    np.testing.assert_array_equal(again[0], base)
    np.testing.assert_array_equal(again[1], low)


def test_a_bundle_is_cut_anew(tiny_models, tmp_path, capsys):
    model = tiny_models['tiny-llava-onevision']
    three = convert(model, tmp_path / 'three', rows='int8', base=3)
    assert main(['rewrite', str(three.path), str(tmp_path / 'four'), '--base', '4', '--layout',
                 'separate']) == 0
    capsys.readouterr()
    four = rewrite(three.path, tmp_path / 'plain', base=4)
    assert not verify(four) and four.rows == 'int4-16+4' and three.rows == 'int3-16+5'
    assert four.base_bytes > three.base_bytes
    assert (four.base_bytes + four.decoder_bytes
            == three.base_bytes + three.decoder_bytes)
    want = restore(three.path).state_dict()
    for path in (four.path, tmp_path / 'four'):
        for name, tensor in restore(path).state_dict().items():
            torch.testing.assert_close(tensor, want[name], rtol=0, atol=0, msg=name)
    back = rewrite(four.path, tmp_path / 'back', base=3)
    assert back.checksums.keys() == three.checksums.keys()
    for name, group in three.groups.items():
        assert back.groups[name].checksum == group.checksum
        assert back.groups[name].base.checksum == group.base.checksum
    with Session.open(four.path) as session:
        assert session.ask('what?', [], max_new_tokens=3).text is not None


def test_what_can_not_be_cut(tiny_models, tmp_path, capsys):
    model = tiny_models['tiny-llava-onevision']
    four = convert(model, tmp_path / 'four', rows='int8', base=4)
    for rows, source in (('int8', None), ('four', four.path)):
        source = source or convert(model, tmp_path / rows, rows=rows).path
        with pytest.raises(BundleError, match='rows of layers.0.qkv (are whole|can.t have a base '
                                              'of 2 bits)'):
            rewrite(source, tmp_path / 'new', base=2)
        assert not (tmp_path / 'new').exists()
    six = convert(model, tmp_path / 'six', rows='int5', base=3)
    with pytest.raises(BundleError, match='at least 2 bits have to be left'):
        rewrite(six.path, tmp_path / 'new', base=4)
    with pytest.raises(SystemExit):
        main(['rewrite', str(four.path), str(tmp_path / 'new')])
    assert 'give --order, --layout or --base' in capsys.readouterr().err
