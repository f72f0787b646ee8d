# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""JSON that is nearly right: values deleted, doubled, of other types, nested, huge, no numbers."""

import copy
import json

from support.hostile import pick

_DEEP = [1]
for _ in range(60):
    _DEEP = [_DEEP]
STRANGE = [
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 4096, 65537, 10**6, 2**31 - 1, 2**31, 2**53 + 1,
    2**63 - 1, 2**63, 2**64, -2**31, -2**63, 10**300, 0.5, -0.0, 1e-320, 1e308, -1e308,
    float('nan'), float('inf'), float('-inf'), '', 'x', ' ', '0', '-1', 'null', '\0', '\ud800',
    'a\nb', '\x1b[2J', '\u202e', 'é' * 9, '日本', 'a' * 70_000, '../../../etc/passwd', '/dev/zero',
    '%s%n', '{{ 7 * 7 }}', '<|im_end|>', '<image>', '__class__', 'float32', 'auto', 'os.system',
    [], {}, [[]], [None], [{}], {'': None}, {'a': {'a': 1}}, [0] * 5000, ['x'] * 300, _DEEP,
    [-1], [float('nan')], [2**70], ['\ud800'], {'\ud800': 1}, {'0': 1}, [[0, 0], [1, 1]]]
_HUGE = '"@huge@"'


def places(value):
    """Return (container, key) of everything in a JSON value."""
    found, left = [], [value]
    while left:
        one = left.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one))
        for key in keys:
            found.append((one, key))
            if isinstance(one[key], (dict, list)) and one[key]:
                left.append(one[key])
    return found


def _retyped(rng, value):
    if isinstance(value, bool) or value is None:
        return pick(rng, [int(bool(value)), str(value), [value]])
    if isinstance(value, (int, float)):
        return pick(rng, [str(value), float(value), [value], -value, value + 1, value - 1,
                          value * 2, value * 10**6, value // 2, value / 3, {'a': value}])
    if isinstance(value, str):
        return pick(rng, [[value], {value: value}, value * 2, value[:-1], value.upper(),
                          value + '\0', len(value), f' {value}', list(value)[:50]])
    if isinstance(value, list):
        return pick(rng, [value[:-1], value * 2, value[::-1], dict.fromkeys(map(str, value), 1),
                          value[:1] * 1000, [value], value[0] if value else 0, str(value)[:99]])
    return pick(rng, [list(value), list(value.values()), [value], {'a': value}, str(value)[:99],
                      dict(list(value.items())[:-1]), {**value, 'x': 1}])


def changed(rng, value, spices=()):
    """Return a copy of a JSON object with one change or a few.

    :param spices: (key, value) that somebody may put in.
    """
    value = copy.deepcopy(value)
    for _ in range(1 + int(rng.integers(3)) * int(rng.random() < 0.3)):
        known = places(value)
        if not known:
            return {'a': copy.deepcopy(pick(rng, STRANGE))}
        one, key = pick(rng, known)
        other, at = pick(rng, known)
        kind = rng.integers(9)
        if kind == 0:
            del one[key]
        elif kind < 3:
            one[key] = copy.deepcopy(pick(rng, STRANGE))
        elif kind < 5:
            one[key] = _retyped(rng, one[key])
        elif kind == 5:
            one[key] = copy.deepcopy(other[at])
        elif kind == 6 and isinstance(one, dict):
            one[pick(rng, ['', 'x', f'{key} ', str(key).upper(), '\ud800', str(at)])] = (
                one.pop(key))
        elif spices and rng.random() < 0.8:
            name, new = pick(rng, spices)
            holder = one if isinstance(one, dict) and rng.random() < 0.5 else value
            holder[name] = copy.deepcopy(new if rng.random() < 0.6 else pick(rng, STRANGE))
        elif isinstance(one, list):
            one[key:key] = [copy.deepcopy(pick(rng, STRANGE))]
        else:
            one[key] = '@huge@'
    return value


def written(rng, value):
    """Return a JSON object as bytes, sometimes in a way that JSON is not."""
    text = json.dumps(value, ensure_ascii=bool(rng.random() < 0.8))
    text = text.replace(_HUGE, pick(rng, ['1' + '0' * 5000, '1e999', '-' + '9' * 400, '0x10',
                                          '[' * 3000 + ']' * 3000]))
    kind = rng.integers(24)
    if kind == 0 and '{"' in text:
        inner = text[text.index('{') + 1:]
        text = '{' + inner[:inner.index(':') + 1] + '1,' + inner  # its first key twice
    elif kind == 1:
        text = pick(rng, ['', 'null', '[]', '"x"', '7', '[' * 200_000, '{"a":' * 100_000, '{}',
                          text + text, text[:-1] + ',}', '/**/' + text, '\0' + text])
    raw = text.encode('utf-8', 'surrogatepass')
    if kind == 2:
        raw = pick(rng, [b'\xef\xbb\xbf' + raw, text.encode('utf-16', 'surrogatepass'),
                         text.encode('utf-32', 'surrogatepass'), raw + b'\xff', b'\x1f\x8b' + raw])
    return raw
