# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fast DDS, ROS's usual middleware, told to keep less memory, or to have room for large images.

It keeps a buffer for each message that a queue ever held, as large as the largest that was in it:
forty goals of 25 MB cost a gigabyte for good, and a queue of questions has a thousand places. Its
own profiles can have buffers made and freed with each message; ROS has to be told to heed them.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_HEED = 'RMW_FASTRTPS_USE_QOS_FROM_XML'
_PROFILES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
_UNASKED = 'DEFAULT_FASTRTPS_PROFILES.xml'  # in the working folder
# What ROS sets unless it heeds profiles, but for the memory of what comes.
_XML = '''<?xml version="1.0" encoding="UTF-8"?>
<profiles xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles">
  <participant profile_name="participant" is_default_profile="true">
    <rtps><builtin>
      <readerHistoryMemoryPolicy>PREALLOCATED_WITH_REALLOC</readerHistoryMemoryPolicy>
      <writerHistoryMemoryPolicy>PREALLOCATED_WITH_REALLOC</writerHistoryMemoryPolicy>
    </builtin></rtps>
  </participant>
  <data_writer profile_name="writer" is_default_profile="true">
    <historyMemoryPolicy>PREALLOCATED_WITH_REALLOC</historyMemoryPolicy>
    <qos><data_sharing><kind>OFF</kind></data_sharing></qos>
  </data_writer>
  <data_reader profile_name="reader" is_default_profile="true">
    <historyMemoryPolicy>DYNAMIC</historyMemoryPolicy>
    <qos><data_sharing><kind>OFF</kind></data_sharing></qos>
  </data_reader>
</profiles>
'''


_LARGE_MESSAGES = Path(__file__).with_name('large_messages.xml')


@contextlib.contextmanager
def no_buffers_kept() -> Iterator[None]:
    """Have a node that is made in here free the memory of messages with them.

    Where somebody has profiles of their own, those stand.
    """
    try:
        file = tempfile.NamedTemporaryFile('w', prefix='fast_dds_', suffix='.xml')
        file.write(_XML)
        file.flush()
    except OSError:  # no room: then memory is kept, which harms less than a node that won't start
        yield
        return
    with file, _profiles(file.name, **{_HEED: '1'}):
        yield


@contextlib.contextmanager
def room_for_large_messages() -> Iterator[None]:
    """Have a node that is made in here send images of up to 30 MB through shared memory.

    Where somebody has profiles of their own, those stand.
    """
    with _profiles(str(_LARGE_MESSAGES)):
        yield


@contextlib.contextmanager
def _profiles(path: str, **more: str) -> Iterator[None]:
    if any(name in os.environ for name in (_HEED, *_PROFILES)) or Path(_UNASKED).exists():
        yield
        return
    os.environ.update({name: path for name in _PROFILES}, **more)
    try:
        yield
    finally:
        for name in (*_PROFILES, *more):
            del os.environ[name]
