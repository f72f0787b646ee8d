# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The native product of few tokens against a float64 reference."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_chunk_ros import _native
from neuron_chunk_ros.storage.row_format import ROW_FORMATS


def multiply(inputs, weights, dtype, out, threads=1):
    _native.row_products(inputs, weights.ctypes.data, dtype, *weights.shape, out, threads)


@given(st.integers(1, 8), st.integers(0, 40), st.integers(1, 700),
       st.sampled_from(['bfloat16', 'float16', 'float32']), st.integers(1, 4), st.integers(0, 99))
def test_equals_float64(tokens, count, columns, dtype, threads, seed):
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((tokens, count)).astype(np.float32)
    weights = np.ascontiguousarray(ROW_FORMATS[dtype].pack(
        rng.standard_normal((count, columns)).astype(np.float32)))
    before = rng.standard_normal((tokens, columns)).astype(np.float32)
    out = before.copy()
    if not count:
        weights = np.zeros((1, columns), weights.dtype)[:0]
    multiply(inputs, weights, dtype, out, threads)
    values = ROW_FORMATS[dtype].unpack(weights).reshape(count, columns).astype(np.float64)
    want = before + inputs.astype(np.float64) @ values
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5 * (1 + np.abs(want).max()))


def test_large_enough_for_all_threads():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((3, 513)).astype(np.float32)
    weights = ROW_FORMATS['bfloat16'].pack(
        rng.standard_normal((513, 5000)).astype(np.float32))
    want = inputs.astype(np.float64) @ ROW_FORMATS['bfloat16'].unpack(weights).astype(np.float64)
    for threads in (1, 2, 3, 7):
        out = np.zeros((3, 5000), np.float32)
        multiply(inputs, weights, 'bfloat16', out, threads)
        np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-3)


def test_every_float16_is_widened_exactly():
    """Subnormal numbers, infinities and NaN too."""
    weights = np.arange(1 << 16, dtype=np.uint16).reshape(1, -1)
    out = np.zeros((1, 1 << 16), np.float32)
    multiply(np.ones((1, 1), np.float32), weights, 'float16', out)
    np.testing.assert_array_equal(out, weights.view(np.float16).astype(np.float32))


def test_a_forked_child_multiplies_too():
    inputs, weights = np.ones((1, 600), np.float32), np.ones((600, 4000), np.float32)
    out = np.zeros((1, 4000), np.float32)
    multiply(inputs, weights, 'float32', out, 2)
    child = os.fork()
    if not child:
        again = np.zeros((1, 4000), np.float32)
        multiply(inputs, weights, 'float32', again, 2)
        os._exit(0 if (again == 600).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (out == 600).all()


@pytest.mark.parametrize('change, message', [
    ({'dtype': 'int8'}, 'dtype must be'),
    ({'inputs': np.ones((1, 3), np.float32)}, 'inputs must be of shape'),
    ({'out': np.ones((2, 5), np.float32)}, 'out must be of shape'),
    ({'inputs': np.ones((65, 4), np.float32), 'out': np.ones((65, 5), np.float32)}, '1 to 64'),
    ({'weights': 0}, 'aligned address'),
    ({'threads': 0}, 'threads must be'),
])
def test_bad_arguments(change, message):
    rows = np.ones((4, 5), np.float32)
    good = {'inputs': np.ones((1, 4), np.float32), 'weights': rows.ctypes.data, 'count': 4,
            'columns': 5, 'dtype': 'float32', 'out': np.ones((1, 5), np.float32), 'threads': 1}
    with pytest.raises(ValueError, match=message):
        _native.row_products(**(good | change))


def test_what_may_not_be_written_is_not():
    rows, out = np.ones((4, 5), np.float32), np.zeros((1, 5), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match='writeable'):
        multiply(np.ones((1, 4), np.float32), rows, 'float32', out)
    assert not out.any()


def unaligned(array):
    """Return such an array one byte beside where its numbers may lie."""
    made = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


@pytest.mark.parametrize('name', ['inputs', 'out'])
def test_numbers_that_lie_nowhere_numbers_may_are_refused(name):
    rows = np.ones((4, 5), np.float32)
    good = {'inputs': np.ones((1, 4), np.float32), 'weights': rows.ctypes.data, 'count': 4,
            'columns': 5, 'dtype': 'float32', 'out': np.ones((1, 5), np.float32), 'threads': 1}
    with pytest.raises(ValueError, match=f'{name} must lie at a multiple of 4'):
        _native.row_products(**(good | {name: unaligned(good[name])}))


GATHER = {'source_stride': 40, 'width': 10, 'target_stride': 32, 'room': 8, 'tokens': 3,
          'item': 4, 'rows': [(1, 2), (4, 5)]}


@pytest.mark.parametrize('change, message', [
    ({'room': -2**63}, 'matrices'), ({'width': -1}, 'matrices'), ({'item': 0}, 'matrices'),
    ({'tokens': -1}, 'matrices'), ({'source_stride': -40}, 'matrices'),
    ({'source_stride': 2**62}, 'addresses'), ({'target_stride': 2**63 - 1}, 'addresses'),
    ({'room': 2**62}, 'addresses'), ({'item': 2**62}, 'addresses'),
    ({'width': 2**62}, 'addresses'), ({'tokens': 2**63 - 1}, 'addresses'),
    ({'room': 6}, "don't fit"), ({'rows': [(9, 2)]}, 'outside'),
    ({'rows': [(2**63 - 1, 1)]}, 'outside'), ({'rows': [(-1, 2)]}, 'outside'),
    ({'target_stride': 31}, 'matrices'), ({'source': 0}, 'matrices'), ({'target': 0}, 'matrices'),
])
def test_gathering_with_bad_arguments(change, message):
    source = np.arange(30, dtype=np.float32).reshape(3, 10)
    target = np.full((3, 8), 7, np.float32)
    good = {'source': source.ctypes.data, 'target': target.ctypes.data} | GATHER
    with pytest.raises(ValueError, match=message):
        _native.gather_columns(**(good | change))
    assert (target == 7).all()
    _native.gather_columns(**good)
    want = np.pad(source[:, [1, 2, 4, 5, 6, 7, 8]], ((0, 0), (0, 1)))
    np.testing.assert_array_equal(target, want)


NO_THREADS = """
import errno, sys
import refused_calls
import numpy as np
from neuron_chunk_ros import _native
why = '' if refused_calls.NEW_THREAD else 'the number of clone is not known here'
why = why or refused_calls.refuse(refused_calls.NEW_THREAD, errno.EAGAIN)
if why:
    print('skip:', why)
    sys.exit()
inputs, weights = np.ones((1, 600), np.float32), np.ones((600, 4000), np.float32)
out = np.zeros((1, 4000), np.float32)
_native.row_products(inputs, weights.ctypes.data, 'float32', 600, 4000, out, 4)
assert (out == 600).all()
"""

NO_END_OF_THREADS = """
import os
import numpy as np
from neuron_chunk_ros import _native
inputs, weights = np.ones((1, 600), np.float32), np.ones((600, 200_000), np.float32)
out = np.zeros((1, 200_000), np.float32)
before = len(os.listdir('/proc/self/task'))
_native.row_products(inputs, weights.ctypes.data, 'float32', 600, 200_000, out, 2**31 - 1)
assert (out == 600).all()
assert len(os.listdir('/proc/self/task')) - before < 256
"""


def run(program):
    folder = Path(__file__).parents[1] / 'storage'  # refused_calls lies there
    done = subprocess.run([sys.executable, '-c', program], timeout=60, capture_output=True,
                          text=True, cwd=folder)
    if done.stdout.startswith('skip: '):
        pytest.skip(done.stdout[6:].strip())
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_where_no_thread_can_be_started():
    run(NO_THREADS)


def test_threads_without_end_are_not_started():
    run(NO_END_OF_THREADS)


FORKED_AMID = """
import os, threading
import numpy as np
from neuron_chunk_ros import _native
inputs, weights = np.ones((1, 600), np.float32), np.ones((600, 4000), np.float32)

def multiply():
    out = np.zeros((1, 4000), np.float32)
    _native.row_products(inputs, weights.ctypes.data, 'float32', 600, 4000, out, 2)
    return out

stop = threading.Event()
def work():
    while not stop.is_set():
        multiply()

others = [threading.Thread(target=work) for _ in range(2)]
for other in others:
    other.start()
for _ in range(30):
    child = os.fork()
    if not child:
        os._exit(0 if (multiply() == 600).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
"""


def test_children_forked_amid_products_multiply():
    run(FORKED_AMID)
