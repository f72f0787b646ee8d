# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Reading a file that somebody names: a regular one, of bounded size, and nothing else.

A FIFO would block for ever, a device such as /dev/zero never ends.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_plain(path: str | os.PathLike, most: int) -> BinaryIO:
    """Open a file for reading. Raises OSError; ValueError for no regular file, or a larger one."""
    # O_NONBLOCK: opening a FIFO waits for a writer otherwise
    file = open(path, 'rb', opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError('not a regular file')
        if status.st_size > most:
            raise ValueError(f'{status.st_size:,} bytes long, at most {most:,} are read')
    except BaseException:
        file.close()
        raise
    return file


def read_plain(path: str | os.PathLike, most: int) -> bytes:
    """Return a file's bytes. Raises OSError, ValueError: see open_plain."""
    with open_plain(path, most) as file:
        data = file.read(most + 1)  # it may grow, and files of /proc say that they are empty
    if len(data) > most:
        raise ValueError(f'over {most:,} bytes long, at most so many are read')
    return data


def read_text(path: str | os.PathLike, most: int) -> str:
    """Return a file of UTF-8 text. Raises OSError, ValueError: see open_plain."""
    return read_plain(Path(path), most).decode()  # UnicodeDecodeError is a ValueError
