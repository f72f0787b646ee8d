# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Shapes and the scratch file that holds them."""

import numpy as np
import pytest

from neuron_chunk_ros.bench.scratch import scratch
from neuron_chunk_ros.bench.shapes import DECODERS, LAYOUTS, Input, Matrix
from neuron_chunk_ros.errors import NeuronChunkError
from neuron_chunk_ros.families import family_for
from neuron_chunk_ros.prepare.presets import PRESETS

KNOWN = {'qwen2-0.5b': 'llava-onevision-0.5b', 'qwen2-1.5b': 'qwen2-vl-2b',
         'qwen2-7b': 'llava-onevision-7b'}


@pytest.mark.parametrize('name', KNOWN)
def test_shapes_are_those_of_the_presets(name):
    config = PRESETS[KNOWN[name]].config
    family = family_for(config)
    groups = family.groups(config)
    layer = DECODERS[name].layer()
    assert len(groups) == DECODERS[name].layers * len(layer)
    for group, part in zip(groups, layer, strict=False):
        assert group.name.endswith(part.name)
        matrix, = part.matrices
        assert (matrix.rows, matrix.columns) == (group.rows, group.columns)
    for group, part in zip(groups, DECODERS[name].layer('separate'), strict=False):
        assert [m.columns for m in part.matrices] == [m.columns for m in group.members]


def test_llama_3_8b():
    decoder = DECODERS['llama-3-8b']
    assert decoder.layer_bytes == 2 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336)


@pytest.mark.parametrize('name', DECODERS)
def test_both_layouts_hold_the_same(name):
    totals = {layout: sum(part.nbytes for part in DECODERS[name].layer(layout))
              for layout in LAYOUTS}
    assert len(set(totals.values())) == 1
    assert totals['bundled'] == DECODERS[name].layer_bytes


def test_an_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="layout is 'mixed'"):
        DECODERS['qwen2-7b'].layer('mixed')


INPUTS = (Input('a', (Matrix('x', 10, 300), Matrix('y', 10, 100))),
          Input('b', (Matrix('z', 7, 9),)))


def test_extents_are_the_matrices_own_and_never_meet(tmp_path):
    with scratch(tmp_path, INPUTS, 3) as file:
        size = 0
        with open(file.path, 'rb') as opened:
            size = opened.seek(0, 2)
        taken = np.zeros(size, int)
        for layer in range(3):
            for index, part in enumerate(INPUTS):
                whole = [np.array([[0, part.rows]])] * len(part.matrices)
                extents = file.extents(layer, index, whole)
                assert [length for _, length in extents] == [m.nbytes for m in part.matrices]
                for first, length in extents:
                    assert first % 4096 == 0
                    taken[first:first + length] += 1
        assert taken.max() == 1
        assert taken.sum() == 3 * sum(part.nbytes for part in INPUTS)
        np.testing.assert_array_equal(file.extents(4, 1, [np.array([[2, 3]])]),
                                      file.extents(1, 1, [np.array([[0, 7]])])[:, :1] * [1, 0]
                                      + [2 * 18, 3 * 18])
    assert not list(tmp_path.iterdir())


def test_what_it_holds_is_random(tmp_path):
    with scratch(tmp_path, INPUTS, 1) as file, open(file.path, 'rb') as opened:
        content = np.frombuffer(opened.read(1 << 20), np.uint8)
    assert np.bincount(content, minlength=256).min() > 3000


def test_nowhere_to_write(tmp_path):
    with pytest.raises(NeuronChunkError, match='no such folder'), \
            scratch(tmp_path / 'none', INPUTS, 1):
        pass
    with pytest.raises(NeuronChunkError, match='free|room'), \
            scratch(tmp_path, (Input('a', (Matrix('x', 1 << 40, 1 << 10),)),), 1):
        pass
    assert not list(tmp_path.iterdir())
