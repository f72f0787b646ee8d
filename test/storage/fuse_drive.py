# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A file system of one folder of files whose reads go wrong as ordered, spoken to the kernel.

FUSE's own protocol, as far as reading goes: nothing between the kernel and the reader is ours, so
io_uring meets what it would meet of a drive. Needs root and /dev/fuse.
"""

import ctypes
import errno
import os
import select
import stat
import struct
import threading
import time
from pathlib import Path

import pytest
from faulty_reads import DELAY, ERROR, HANG, NOTHING, SHORT

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE = 1, 2, 3, 14, 15, 17, 18
_FLUSH, _INIT, _INTERRUPT, _DESTROY, _BATCH_FORGET = 25, 26, 36, 38, 42
_OPENDIR, _READDIR, _RELEASEDIR = 27, 28, 29
_NO_ANSWER = (_FORGET, _BATCH_FORGET, _INTERRUPT)
_ASYNC = 1 | 1 << 15  # several reads of a file at a time, direct ones too
_ROOT = 1
_DETACH = 2


class FuseDrive:
    """Shows the files of a folder, read-only, at another until close()."""

    def __init__(self, source, target, orders):
        self._orders = orders
        self._files = sorted(path for path in Path(source).iterdir() if path.is_file())
        self._target = os.fsencode(target)
        self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._device = os.open('/dev/fuse', os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            pytest.skip(f'no FUSE here: {error}')
        options = f'fd={self._device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}'
        if self._libc.mount(b'faulty', self._target, b'fuse', 7, options.encode()):
            os.close(self._device)
            pytest.skip(f'mounting FUSE is refused here: {os.strerror(ctypes.get_errno())}')
        self._late = []  # (when, which request, its bytes); when None: once it is released
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self):
        self._orders.release()
        self._libc.umount2(self._target, _DETACH)
        self._thread.join(20)
        assert not self._thread.is_alive(), 'somebody still has a file of the drive open'
        os.close(self._device)

    def _serve(self):
        while True:
            try:
                if select.select([self._device], [], [], 0.002 if self._late else 0.2)[0]:
                    if not self._answer(os.read(self._device, 1 << 18)):
                        return
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return  # unmounted, and nobody has a file open
                if error.errno not in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    raise
            self._answer_late()

    def _answer_late(self):
        now, left = time.monotonic(), []
        for when, unique, data in self._late:
            if self._orders.released if when is None else when <= now:
                self._reply(unique, data)
            else:
                left.append((when, unique, data))
        self._late = left
        self._orders.set('hanging', sum(when is None for when, _, _ in left))

    def _answer(self, message):
        _, opcode, unique, node = struct.unpack_from('=IIQQ', message)
        body = message[40:]
        if opcode in _NO_ANSWER:
            return True
        if opcode == _INIT:
            major, minor, ahead, _ = struct.unpack_from('=IIII', body)
            self._reply(unique, struct.pack('=IIIIHHIIHHI28x', 7, min(minor, 31), ahead, _ASYNC,
                                            64, 48, 1 << 17, 1, 0, 0, 0))
        elif opcode == _LOOKUP:
            name = body.split(b'\0')[0].decode()
            found = [i for i, path in enumerate(self._files) if path.name == name]
            if found:
                number = found[0] + _ROOT + 1
                self._reply(unique, struct.pack('=QQQQII', number, 0, 60, 60, 0, 0)
                            + self._attributes(number))
            else:
                self._reply(unique, b'', errno.ENOENT)
        elif opcode == _GETATTR:
            self._reply(unique, struct.pack('=QII', 60, 0, 0) + self._attributes(node))
        elif opcode == _OPENDIR:
            self._reply(unique, bytes(16))
        elif opcode == _READDIR:
            _, offset, size = struct.unpack_from('=QQI', body)
            self._reply(unique, self._names(offset, size))
        elif opcode == _OPEN:
            self._reply(unique, struct.pack('=QII', 0, 1, 0))  # not through the page cache
        elif opcode == _READ:
            _, offset, size = struct.unpack_from('=QQI', body)
            self._read(unique, node, offset, size)
        elif opcode == _STATFS:
            self._reply(unique, struct.pack('=QQQQQIIII24x', 0, 0, 0, 0, 0, 4096, 255, 4096, 0))
        elif opcode in (_RELEASE, _RELEASEDIR, _FLUSH, _DESTROY):
            self._reply(unique, b'')
            return opcode != _DESTROY
        else:
            self._reply(unique, b'', errno.ENOSYS)
        return True

    def _attributes(self, node):
        size, mode = 0, stat.S_IFDIR | 0o755
        if node != _ROOT:
            size, mode = self._files[node - _ROOT - 1].stat().st_size, stat.S_IFREG | 0o644
        return struct.pack('=6Q10I', node, size, -(-size // 512), 0, 0, 0, 0, 0, 0, mode, 1,
                           os.getuid(), os.getgid(), 0, 4096, 0)

    def _names(self, first, room):
        listed = b''
        for number in range(first, len(self._files)):
            name = os.fsencode(self._files[number].name)
            entry = struct.pack('=QQII', number + _ROOT + 1, number + 1, len(name), 8) + name
            entry += bytes(-len(entry) % 8)
            if len(listed) + len(entry) > room:
                break
            listed += entry
        return listed

    def _read(self, unique, node, offset, size):
        with open(self._files[node - _ROOT - 1], 'rb') as file:
            data = os.pread(file.fileno(), size, offset)
        orders = self._orders
        number = orders.seen
        orders.set('seen', number + 1)
        kind, value = orders.kind, orders.value
        if not orders.first <= number < orders.first + orders.times:
            kind = NOTHING
        if kind == ERROR:
            self._reply(unique, b'', value)
        elif kind == SHORT:
            some = max(len(data) // 2 // value * value, value)
            self._reply(unique, data[:some])
        elif kind in (DELAY, HANG):
            self._late.append((time.monotonic() + value / 1000 if kind == DELAY else None, unique,
                               data))
            orders.set('hanging', sum(when is None for when, _, _ in self._late))
        else:
            self._reply(unique, data)

    def _reply(self, unique, data, error=0):
        try:
            os.write(self._device, struct.pack('=IiQ', 16 + len(data), -error, unique) + data)
        except OSError as refused:
            if refused.errno not in (errno.ENOENT, errno.ENODEV):
                raise  # ENOENT: whoever asked is gone
