# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fast DDS, ROS's usual middleware, told not to keep memory for messages that are long gone.

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


@contextlib.contextmanager
def no_buffers_kept() -> Iterator[None]:
    """Have a node that is made in here free the memory of messages with them.

    Where somebody has profiles of their own, those stand.
    """
    if any(name in os.environ for name in (_HEED, *_PROFILES)) or Path(_UNASKED).exists():
        yield
        return
    try:
        file = tempfile.NamedTemporaryFile('w', prefix='fast_dds_', suffix='.xml')
        file.write(_XML)
        file.flush()
    except OSError:  # no room: then memory is kept, which harms less than a node that won't start
        yield
        return
    with file:
        os.environ.update({name: file.name for name in _PROFILES}, **{_HEED: '1'})
        try:
            yield
        finally:
            for name in (_HEED, *_PROFILES):
                del os.environ[name]
