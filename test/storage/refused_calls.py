# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Have the kernel refuse system calls to this process, all its threads, from now on."""

import ctypes
import platform
import struct

IO_URING_ENTER = 426
NEW_THREAD = {'x86_64': (56, 435), 'aarch64': (220, 435)}.get(platform.machine(), ())
_SECCOMP = {'x86_64': 317, 'aarch64': 277}.get(platform.machine())
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000


def refuse(numbers, error):
    """Let calls of these numbers fail; return why that can't be done here, '' where it is."""
    if _SECCOMP is None:
        return f'system call numbers of {platform.machine()} are not known here'
    program = [(_LOAD, 0, 0, 0)]
    program += [(_EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | error)]
    code = b''.join(struct.pack('=HBBI', *line) for line in program)
    filters = ctypes.create_string_buffer(code, len(code))
    header = struct.pack('HxxxxxxP', len(program), ctypes.addressof(filters))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.syscall(_SECCOMP, 1, 1, header):
        return f'seccomp filters are refused here: errno {ctypes.get_errno()}'
    return ''
