# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments that nobody should pass: numbers at the edges, arrays of every other kind."""

import numpy as np

INTS = [0, 1, -1, 2, 3, 7, 8, 16, 17, 31, 32, 33, 48, 63, 64, 65, 255, 4095, 4096, 65536,
        2**31 - 1, 2**31, -2**31, 2**32, 2**40, 2**53, 2**62, 2**63 - 4096, 2**63 - 1, -2**63,
        2**63, 2**64 - 1, 2**64, -2**64]
FLOATS = [0.0, -0.0, 0.5, 1.0, -1.0, 1e-9, 3e4, 1e30, 1e300, 1.7e308, -1e300, 5e-324, 2.0**31,
          2.0**63, float('nan'), float('inf'), float('-inf')]
WRONG = [None, 'x', b'x', '', 1.5, (), [], {}, [[]], [None], object(), 1j, np.float32(1),
         np.array(3), True, 'a\0b', '\udc80', range(3)]
TYPES = ['f4', '>f4', 'f8', 'f2', 'i8', '>i8', 'i4', 'u8', 'u1', 'i1', '?', 'c8', 'O', 'U3',
         'M8[s]', 'V4']


def pick(rng, values):
    return values[rng.integers(len(values))]


def integer(rng):
    value = pick(rng, INTS)
    return value + int(rng.integers(-2, 3)) if rng.random() < 0.2 else value


def scalar(rng):
    kind = rng.integers(4)
    if kind == 0:
        return pick(rng, WRONG)
    return integer(rng) if kind < 3 else pick(rng, FLOATS)


def values(rng, shape):
    """Return float32 of any size, NaN and infinities among them."""
    made = (rng.standard_normal(shape) * 10.0 ** rng.integers(-44, 38, shape)).astype(np.float32)
    kind = rng.integers(4)
    if kind == 1:
        made[rng.random(shape) < 0.1] = np.nan
    elif kind == 2:
        made[rng.random(shape) < 0.1] = np.inf
        made[rng.random(shape) < 0.1] = -np.inf
    elif kind == 3:
        made = np.abs(made)
    return made


def _unaligned(array):
    raw = np.empty(array.nbytes + 1, np.uint8)
    made = raw[1:].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


def _read_only(array):
    made = array.copy()
    made.flags.writeable = False
    return made


CHANGES = [
    _unaligned, _read_only,
    lambda a: a[..., ::-1], lambda a: np.asfortranarray(a), lambda a: a.T,
    lambda a: np.repeat(a, 2, -1)[..., ::2] if a.ndim else a,
    lambda a: a[None], lambda a: a.reshape(-1), lambda a: a[:0], lambda a: a[..., :0],
    lambda a: a[..., :-1] if a.ndim else a, lambda a: np.concatenate([a, a]) if a.ndim else a,
    lambda a: np.broadcast_to(a.reshape(-1)[:1], (65, 1000)) if a.size else a,
    lambda a: a.tolist(), lambda a: memoryview(np.ascontiguousarray(a)), lambda a: a.tobytes(),
    lambda a: np.matrix(a) if a.ndim <= 2 else a, lambda a: np.ma.masked_array(a),
    lambda a: a.reshape(()) if a.size == 1 else a,
]


def array(rng, good):
    """Return an array like a good one, in one way or two not like it; or something else."""
    kind = rng.integers(10)
    if kind == 0:
        return scalar(rng)
    made = good
    if kind < 4:
        wanted = np.dtype(pick(rng, TYPES))
        with np.errstate(all='ignore'):
            made = good.view('V4')[..., :1] if wanted.kind == 'V' and good.itemsize == 4 and (
                good.ndim) else good.astype(wanted if wanted.kind != 'M' else 'i8')
    if kind > 2:
        try:
            made = pick(rng, CHANGES)(made)
        except (TypeError, ValueError):
            pass  # numpy has no such change of such an array
    return made


def described(value):
    """Say what an argument is, in one line."""
    if isinstance(value, np.ndarray):
        flags = ''.join(c for c, name in zip('CAW', ('C_CONTIGUOUS', 'ALIGNED', 'WRITEABLE'),
                                             strict=True) if value.flags[name])
        some = [] if value.dtype.kind == 'V' else value.reshape(-1)[:8].tolist()
        some = ' '.join(map(str, some))
        return f'array({value.dtype} {list(value.shape)} {list(value.strides)} {flags}: {some})'
    text = repr(value)
    return text if len(text) < 200 else f'{text[:200]}...'
