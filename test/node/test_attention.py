# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The parameter `attention`: live, seen in the bill, and missed where there are no classes."""


import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from node_client import image

from neuron_chunk_ros.attention.templates import INTRA_SINK
from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.storage.annotate import store_attention
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.tabletop.shipped import model_dir

QUESTION = 'which view shows the blue circle?'


@pytest.fixture
def bundle(tmp_path):
    convert(model_dir(), tmp_path / 'bundle', rows='int8')
    return Bundle.open(tmp_path / 'bundle')


def views():
    rng = np.random.default_rng(4)
    return [image(rng.integers(0, 256, (60, 80, 3), np.uint8), (k + 1, 0)) for k in range(3)]


def test_heads_follow_the_parameter(start, bundle):
    store_attention(bundle, [[INTRA_SINK] * 4] * 5, {})
    vlm = start('looking', model=str(bundle.path))
    dense = vlm.ask(QUESTION, images=views()).answer.io
    assert dense.attention_density == 1
    assert not vlm.set(attention='blindsight')
    answer = vlm.ask(QUESTION, images=views()).answer.io
    assert 0.2 < answer.attention_density < 1
    assert 'blindsight' in {v.value for v in vlm.status('model').values if v.key == 'attention'}
    assert {v.value for v in vlm.status('model').values if v.key == 'attention kept'} == {
        f'{answer.attention_density:.0%}'}
    assert 'dense' in vlm.set(attention='everything')
    assert not vlm.set(attention='dense')
    assert vlm.ask(QUESTION, images=views()).answer.io.attention_density == 1


def test_a_bundle_without_classes_is_told(start, bundle):
    vlm = start('blind', model=str(bundle.path), attention='blindsight')
    status = vlm.status('model', lambda status: status.level == DiagnosticStatus.WARN)
    assert 'attention characterize' in status.message
    assert vlm.ask(QUESTION, images=views()).answer.io.attention_density == 1
