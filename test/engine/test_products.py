# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Products with padded rows against the plain product."""

import pytest
import torch

from neuron_chunk_ros.engine.products import STEP, Products


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
@pytest.mark.parametrize('rows', [1, STEP - 1, STEP, STEP + 1, 3 * STEP, 3 * STEP + 17])
@pytest.mark.parametrize('tokens', [1, 9])
def test_equals_the_plain_product(dtype, rows, tokens):
    torch.manual_seed(rows)
    product = Products()
    for _ in range(2):  # a second time over what the first left in the scratch block
        inputs, weights = torch.randn(tokens, rows).to(dtype), torch.randn(rows, 50).to(dtype)
        want = inputs.double() @ weights.double()
        got = product(inputs, weights).double()
        room = 2 ** -8 if dtype == torch.bfloat16 else 1e-5
        assert (got - want).abs().max() <= room * (1 + want.abs().max())
