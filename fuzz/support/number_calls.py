# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of products, importance and selection: good arguments, some of them made hostile."""

import numpy as np

from neuron_chunk_ros import _native

from . import hostile
from .watched import Finding

# Where what an address stands for must lie. Of a call that may reach beyond, and can't know it,
# the caller would be to blame: it isn't made.
MEMORY = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
ADDRESS = MEMORY.ctypes.data
OUT = np.zeros(1 << 20, np.uint8)
FORMATS = [(8, 64), (4, 32), (4, 16), (3, 16), (2, 16), (5, 16), (6, 16)]  # bits, group
ALWAYS_REFUSED = 1 << 57  # bytes from an address on that no process has


def is_number(value):
    return isinstance(value, int) and not isinstance(value, bool)


def runs(rng, rows):
    edges = np.sort(rng.integers(0, rows + 1, 2 * rng.integers(0, 9)))
    return np.stack([edges[::2], edges[1::2] - edges[::2]], 1).astype(np.int64)


def row_products(rng):
    tokens, count, columns = (int(rng.integers(*bounds)) for bounds in ((1, 9), (0, 60), (0, 900)))
    return {'inputs': hostile.values(rng, (tokens, count)), 'weights': ADDRESS,
            'dtype': hostile.pick(rng, ['bfloat16', 'float16', 'float32']), 'count': count,
            'columns': columns, 'out': np.zeros((tokens, columns), np.float32),
            'threads': int(rng.integers(1, 5))}


def reach_of_rows(a):
    return {'weights': a['count'] * a['columns'] * 4}


def _row_bytes(columns, bits, group):
    return -(-columns // 32) * 4 * bits + 2 * -(-columns // group)


def packed_products(rng):
    tokens, rows = int(rng.integers(1, 9)), int(rng.integers(0, 40))
    widths = [int(n) for n in rng.integers(1, 300, rng.integers(1, 4))]
    bits, group = hostile.pick(rng, FORMATS)
    first = int(rng.integers(0, 9))
    made = {'inputs': hostile.values(rng, (tokens, rows)), 'rows': ADDRESS + int(rng.integers(9)),
            'stride': sum(_row_bytes(n, bits, group) for n in widths), 'widths': widths,
            'bits': bits, 'group': group,
            'out': np.zeros((tokens, first + sum(widths) + 3), np.float32), 'first': first,
            'threads': int(rng.integers(1, 4)),
            'kernel': hostile.pick(rng, ['', *_native.packed_kernels()])}
    kind = rng.integers(4)
    finer = {3: 5, 4: 4}.get(bits)
    if kind == 1 and finer and group == 16:
        made |= {'finer': ADDRESS + 5, 'finer_bits': finer,
                 'finer_stride': sum(-(-n // 32) * 4 * finer for n in widths)}
    elif kind == 2:
        made |= {'scales': ADDRESS + 3, 'scale_bits': 4, 'unit': float(rng.random()),
                 'scale_stride': sum(_row_bytes(n, 4, group) for n in widths)}
        if rng.random() < 0.7:
            made['scale_rows'] = rng.integers(0, 40, rows)
    if rng.random() < 0.3:
        made['places'] = rng.integers(0, 40, rows)
    return made


def reach_of_packed(a):
    rows = max(np.shape(a['inputs'])[1:2] or (0,))
    rows = max(rows, 40 if a.get('places') is not None or a.get('scale_rows') is not None else 0)
    return {'rows': rows * a['stride'], 'scales': rows * a.get('scale_stride', 0),
            'finer': rows * a.get('finer_stride', 0)}


def unpack_rows(rng):
    rows, columns = int(rng.integers(0, 20)), int(rng.integers(1, 700))
    bits, group = hostile.pick(rng, FORMATS)
    made = {'segment': ADDRESS + int(rng.integers(9)), 'stride': _row_bytes(columns, bits, group),
            'rows': rows, 'columns': columns, 'bits': bits, 'group': group,
            'out': OUT.ctypes.data, 'dtype': hostile.pick(rng, ['float32', 'bfloat16']),
            'out_stride': columns + int(rng.integers(3)), 'threads': int(rng.integers(1, 4))}
    if rng.random() < 0.3:
        made['places'] = rng.integers(0, 40, rows)
    if rng.random() < 0.3:
        made |= {'finer': ADDRESS + 1, 'finer_bits': 4, 'finer_stride': -(-columns // 32) * 16}
    return made


def reach_of_unpacking(a):
    rows = max(a['rows'], 40 if a.get('places') is not None else 0)
    return {'segment': rows * a['stride'], 'finer': rows * a.get('finer_stride', 0),
            'out': a['rows'] * a['out_stride'] * 4}


def round_to_integers(rng):
    shape = int(rng.integers(0, 30)), int(rng.integers(0, 300))
    return {'values': hostile.values(rng, shape), 'bits': int(rng.integers(2, 9)),
            'group': int(rng.integers(1, 99)), 'shrinks': rng.random(rng.integers(0, 5)) + 0.3,
            'threads': int(rng.integers(1, 4))}


def magnitudes(rng):
    kinds, tokens, rows = (int(n) for n in rng.integers(0, (4, 40, 900)))
    dtype = hostile.pick(rng, ['bfloat16', 'float16', 'float32'])
    return {'activations': ADDRESS, 'dtype': dtype,
            'stride': rows * (4 if dtype == 'float32' else 2),
            'weights': hostile.values(rng, (kinds, tokens)),
            'out': np.zeros((kinds, rows), np.float32), 'threads': int(rng.integers(1, 4))}


def reach_of_activations(a):
    tokens = max(np.shape(a['weights'])[1:2] or (0,))
    rows = max(np.shape(a['out'])[1:2] or (0,))
    return {'activations': tokens * max(abs(a['stride']), rows * 4)}


def gather_columns(rng):
    width = int(rng.integers(1, 400))
    chosen, item = runs(rng, width), int(rng.integers(1, 9))
    room = int(chosen[:, 1].sum() + rng.integers(0, 9))
    return {'source': ADDRESS, 'source_stride': width * item, 'width': width,
            'target': OUT.ctypes.data, 'target_stride': room * item, 'room': room,
            'tokens': int(rng.integers(0, 9)), 'item': item, 'rows': chosen}


def reach_of_gathering(a):
    return {'source': max(a['tokens'], 1) * max(a['source_stride'], a['width'] * a['item']),
            'target': a['tokens'] * max(a['target_stride'], a['room'] * a['item'])}


def select_topk(rng):
    return {'importance': hostile.values(rng, rng.integers(0, 3000)),
            'rows': int(rng.integers(0, 4000))}


def select_topk_keeping(rng):
    return {'importance': hostile.values(rng, rng.integers(0, 3000)),
            'kept': float(rng.random() * 10.0 ** rng.integers(-9, 9))}


def select_greedy(rng):
    return {'importance': hostile.values(rng, rng.integers(0, 3000)),
            'rows': int(rng.integers(0, 4000)), 'row_bytes': int(rng.integers(1, 9000)),
            'latency': rng.random(rng.integers(1, 300)) + 1e-6,
            'min_kib': 1 + float(rng.random() * 8), 'max_kib': 9 + float(rng.random() * 200),
            'step_kib': float(1 + rng.random() * 9), 'jump_kib': float(1 + rng.random() * 9)}


def select_optimal(rng):
    return {'importance': hostile.values(rng, rng.integers(0, 3000)),
            'target': hostile.pick(rng, ['rows', 'cost', 'kept']),
            'value': float(rng.random() * 10.0 ** rng.integers(-9, 9)),
            'cell_rows': int(rng.integers(1, 9)), 'run_cost': float(rng.random() * 99),
            'row_cost': float(rng.random() + 1e-6), 'price': int(rng.integers(-1, 2100))}


def frontier(rng):
    return {'importance': hostile.values(rng, rng.integers(0, 3000)),
            'cell_rows': int(rng.integers(1, 9)), 'run_cost': float(rng.random() * 99),
            'row_cost': float(rng.random() + 1e-6), 'points': int(rng.integers(1, 18))}


def reading_seconds(rng):
    return {'runs': runs(rng, 5000), 'row_bytes': int(rng.integers(1, 9000)),
            'block': hostile.pick(rng, [1, 512, 4096]), 'low_request': 1e-4, 'low_kib': 1e-6,
            'high_request': 2e-4, 'high_kib': 5e-7, 'knee_kib': 100.0}


def packed_kernels(rng):
    return {}


def io_uring_available(rng):
    return {}


def check_selection(arguments, result):
    """Rows that are selected are among those there are: ascending, disjoint, not touching."""
    found = result[0] if isinstance(result, tuple) else result
    count = np.size(arguments['importance'])
    edges = found.reshape(-1) if found.size else np.zeros(0, np.int64)
    starts, stops = edges[::2], edges[::2] + edges[1::2]
    if (edges[1::2] < 1).any() or (starts < 0).any() or (stops > count).any() or (
            starts[1:] <= stops[:-1]).any():
        raise Finding(f'selected {found.tolist()} of {count} rows')


REACH = {'row_products': reach_of_rows, 'packed_products': reach_of_packed,
         'unpack_rows': reach_of_unpacking, 'magnitudes': reach_of_activations,
         'gather_columns': reach_of_gathering}
CHECKS = dict.fromkeys(['select_topk', 'select_topk_keeping', 'select_greedy', 'select_optimal'],
                       check_selection)
MADE = {made.__name__: made for made in (
    row_products, packed_products, unpack_rows, round_to_integers, magnitudes, gather_columns,
    select_topk, select_topk_keeping, select_greedy, select_optimal, frontier, reading_seconds,
    packed_kernels, io_uring_available)}
ADDRESSES = {'weights', 'rows', 'segment', 'out', 'activations', 'source', 'target', 'scales',
             'finer'}
# Pointers that are refused whatever else is wrong.
NOWHERE = [0, -1, 2**64, None, 'x', 1.5, []]


def _change(rng, name, key, value):
    if isinstance(value, np.ndarray):
        return hostile.array(rng, value)
    if isinstance(value, int) and key in ADDRESSES and name in REACH and value > 1 << 20:
        return hostile.pick(rng, NOWHERE) if rng.random() < 0.7 else value + int(rng.integers(4))
    if isinstance(value, list):
        return hostile.pick(rng, [[], [hostile.integer(rng)], [*value, hostile.integer(rng)],
                                  hostile.scalar(rng)])
    if isinstance(value, str):
        return hostile.pick(rng, ['', 'int8', 'float16', 'float32', 'BASE', *hostile.WRONG])
    return hostile.scalar(rng)


def _stays(name, arguments):
    """Whether what the addresses stand for lies in our memory, or is refused for sure."""
    # Not what has a number of items: that many times, it would be copied.
    numbers = {key: value for key, value in arguments.items()
               if not isinstance(value, (str, bytes, list, tuple, range))}
    try:
        reach = REACH[name](numbers)
    except (TypeError, ValueError, OverflowError, KeyError, IndexError):
        return True  # not numbers: refused
    for key, nbytes in reach.items():
        address = arguments.get(key, 0)
        if not is_number(address) or not 1 << 20 < address < 2**64:
            continue
        room = 3 << 18  # of either memory, from any address that is handed out on
        if not isinstance(nbytes, (int, np.integer)) or room < int(nbytes) < ALWAYS_REFUSED:
            return False
    return True


def arguments_of(rng, name):
    """Return arguments for a function of the module; None where nobody could answer for them."""
    arguments = MADE[name](rng)
    for key in rng.permutation(sorted(arguments))[:rng.integers(0, 4)]:
        arguments[key] = _change(rng, name, key, arguments[key])
    if name in REACH and not _stays(name, arguments):
        return None
    if arguments and rng.random() < 0.05:
        del arguments[sorted(arguments)[rng.integers(len(arguments))]]
    return arguments
