# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of any size: taken, or refused with the numbers; nothing else is raised."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.families import FAMILIES, image_check, prompt_builder
from neuron_chunk_ros.storage.side_files import SideFiles

SIDES = st.sampled_from([1, 2, 3, 13, 27, 28, 29, 200, 201, 400, 401, 2000])


@pytest.fixture(scope='module')
def builders(tiny_models):
    found = {}
    for folder in tiny_models.values():
        raw = json.loads((folder / 'config.json').read_text())
        family = FAMILIES[raw['model_type']]
        builder = prompt_builder(family.name, SideFiles.of_model(folder), family.config(raw))
        found[family.name] = builder, image_check(raw)
    return found


@pytest.mark.parametrize('family', sorted(FAMILIES))
@settings(max_examples=40, deadline=None)
@given(height=SIDES, width=SIDES)
@example(height=1, width=200)
@example(height=201, width=1)
def test_any_size(builders, family, height, width):
    builder, check = builders[family]
    image = np.zeros((height, width, 3), np.uint8)
    try:
        check(image)
    except RequestError as refusal:
        assert f'{width} x {height} pixels' in str(refusal)
        assert max(height, width) > builder.most_ratio * min(height, width)
        with pytest.raises(RequestError, match=f'{width} x {height} pixels'):
            builder.encode([np.zeros((9, 9, 3), np.uint8), image])
        return
    pixels, counts = builder.encode([image])
    assert counts[0] > 0 and pixels
