# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The folder a playback leaves: a rosbag2, answers.csv and page.png; complete or not at all."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

import neuron_chunk_interfaces
from neuron_chunk_ros.programs.playback import page
from neuron_chunk_ros.programs.playback.options import PlayError
from neuron_chunk_ros.programs.playback.results import Results, stamp_of
from neuron_chunk_ros.storage.atomic import AtomicFolder

_OWN = 'neuron_chunk_interfaces'
_TYPES = {'answer': f'{_OWN}/msg/Answer', 'telemetry': f'{_OWN}/msg/IoTelemetry',
          'diagnostics': 'diagnostic_msgs/msg/DiagnosticArray'}
# Humble still reads this version of the format, and newer ones all do.
_BAG_VERSION = 8
COLUMNS = ('bag_time', 'at', 'stamp', 'question', 'standing', 'text', 'finish_reason',
           'confidence', 'seconds', 'megabytes', 'importance_kept', 'attention_density', 'coarse')


def write(results: Results) -> None:
    """Write everything to the folder the options name. Raises PlayError."""
    with AtomicFolder(results.options.out, error=PlayError) as out:
        _write_bag(results, out.folder)
        _write_table(results, out.folder / 'answers.csv')
        page.draw(results, out.folder / 'page.png')


def typestore():
    """Return rosbags' types together with ours, read from the installed .msg files.

    :raises PlayError: they aren't installed.
    """
    store = get_typestore(Stores.ROS2_HUMBLE)
    types = {}
    for path in sorted(_message_folder().glob('*.msg')):
        types.update(get_types_from_msg(path.read_text(), f'{_OWN}/msg/{path.stem}'))
    store.register(types)
    return store


def _message_folder() -> Path:
    # Looked for beside the module, not in the ament index: a pip set-up sets no prefix path, and
    # these are sure to be the definitions the module was made of.
    for parent in Path(neuron_chunk_interfaces.__file__).resolve().parents:
        folder = parent / 'share' / _OWN / 'msg'
        if folder.is_dir():
            return folder
    raise PlayError(f'the .msg files of {_OWN} are not installed beside '
                    f'{neuron_chunk_interfaces.__file__}: build the package again')


def _write_bag(results: Results, folder: Path) -> None:
    types = typestore()
    storage = results.options.storage or results.storage
    # The writer wants a folder of its own, and names the file after it.
    inner = folder / 'answers'
    with Writer(inner, version=_BAG_VERSION,
                storage_plugin=StoragePlugin[storage.upper()]) as writer:
        writer.set_custom_data('played_bag', str(results.options.bag.resolve()))
        writer.set_custom_data('rate', f'{results.options.rate:g}')
        messages = []
        for kind, topic in results.topics.items():
            connection = writer.add_connection(topic, _TYPES[kind], typestore=types)
            messages += [(heard.time, connection, heard.data) for heard in results.heard[kind]]
        for time, connection, data in sorted(messages, key=lambda message: message[0]):
            writer.write(connection, time, data)
    for path in inner.iterdir():
        shutil.move(path, folder / path.name)
    inner.rmdir()


def _write_table(results: Results, path: Path) -> None:
    with open(path, 'w', newline='', encoding='utf-8') as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for heard, (at, answer) in zip(results.heard['answer'], results.answers, strict=True):
            io = answer.io
            table.writerow([
                _seconds(heard.time), f'{at:.3f}', _seconds(stamp_of(answer.header)),
                answer.prompt, int(answer.standing), answer.text, answer.finish_reason,
                f'{answer.confidence:.4f}', f'{answer.timing.total:.4f}',
                f'{io.bytes_read / 1e6:.3f}', f'{io.importance_kept:.4f}',
                f'{io.attention_density:.4f}', int(answer.coarse)])


def _seconds(nanoseconds: int) -> str:
    """Write a time [ns] in seconds, exactly."""
    return f'{nanoseconds // 10**9}.{nanoseconds % 10**9:09}'
