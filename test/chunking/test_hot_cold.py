# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Hot-cold order against plain sorting."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from neuron_chunk_ros.chunking.hot_cold import hot_cold_order, marks

ROWS = st.integers(1, 60)
# few different values: ties are the point
VALUES = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1e-30, 3e8])


@given(ROWS.flatmap(lambda n: st.tuples(
    arrays.arrays(np.int32, n, elements=st.integers(0, 5)),
    arrays.arrays(np.float32, n, elements=VALUES.map(np.float32)))))
def test_order_is_count_then_importance_then_number(case):
    counts, importance = case
    want = sorted(range(len(counts)), key=lambda i: (-counts[i], -importance[i], i))
    order = hot_cold_order(counts, importance)
    assert order.dtype == np.int32 and order.tolist() == want


@given(ROWS.flatmap(lambda n: arrays.arrays(np.float32, n, elements=VALUES.map(np.float32))),
       st.sampled_from([0.5, 0.0, 1.0, 0.3]))
def test_marks_are_the_most_important(importance, fraction):
    marked = marks(importance, fraction)
    best = sorted(range(len(importance)), key=lambda i: (-importance[i], i))
    want = set(best[:round(fraction * len(importance))])
    assert set(np.flatnonzero(marked).tolist()) == want
