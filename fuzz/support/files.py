# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Files damaged by chance, and what else may lie in a file's place."""

import os
import socket

from support.hostile import pick


def damaged(rng, data, others=(b'',)):
    """Return bytes with a change or a few: cut, flipped, doubled, mixed with another file's."""
    data = bytearray(data)
    for _ in range(1 + int(rng.integers(3))):
        at = int(rng.integers(len(data) + 1))
        kind = rng.integers(9)
        if kind == 0:
            del data[at:]
        elif kind == 8:  # a length, perhaps, that lies
            data[at:at + 4] = pick(rng, [0, 0x2fffffff, 2**31 - 1, 2**31, 2**32 - 1]).to_bytes(
                4, pick(rng, ['big', 'little']))
        elif kind < 3 and data:
            for spot in rng.integers(len(data), size=1 + rng.integers(4)):
                data[spot] ^= 1 << rng.integers(8)
        elif kind == 3:
            data[at:at] = rng.bytes(1 + rng.integers(40))
        elif kind == 4:
            del data[at:at + int(rng.integers(1, 60))]
        elif kind == 5:
            data[at:at] = data[at:at + int(rng.integers(1, 400))]
        elif kind == 6:
            other = pick(rng, others)
            data[at:] = other[int(rng.integers(len(other) + 1)):]
        else:
            data[at:at] = pick(rng, [b'\0', b'\xff\xfe', b'\xed\xa0\x80', b'\n', b'"', b'{', b']',
                                     b'\\', b'1' * 50, b'\r\n'])
    return bytes(data)


def replace(rng, path):
    """Put something else in a file's place; return in words what."""
    kind = pick(rng, ['fifo', 'folder', 'sparse', 'huge', 'loop', 'zeros', 'outside', 'inside',
                      'gone', 'socket', 'empty', 'unreadable', 'proc'])
    data = path.read_bytes()
    path.unlink()
    if kind == 'fifo':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    elif kind in ('sparse', 'huge'):
        with open(path, 'wb') as file:
            file.write(data)
            file.truncate(
                3 << 20 if kind == 'sparse' else pick(rng, [70 << 20, 300 << 20, 1 << 40]))
    elif kind == 'outside':
        elsewhere = path.parent.parent / 'elsewhere'
        elsewhere.write_bytes(data)
        path.symlink_to(elsewhere)
    elif kind == 'inside':  # a link may point to another file of the folder
        names = sorted(name for name in os.listdir(path.parent) if name != path.name)
        path.symlink_to(pick(rng, names))
    elif kind == 'socket':
        # its path may be too long for a socket, its name in the folder is not
        with socket.socket(socket.AF_UNIX) as made:
            here = os.open(path.parent, os.O_RDONLY)
            try:
                made.bind(f'/proc/self/fd/{here}/{path.name}')
            finally:
                os.close(here)
    elif kind == 'empty':
        path.touch()
    elif kind == 'unreadable':
        path.write_bytes(data)
        path.chmod(0)
    elif kind != 'gone':
        path.symlink_to({'loop': path.name, 'zeros': '/dev/zero', 'proc': '/proc/self/maps'}[kind])
    return kind
