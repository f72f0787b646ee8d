# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk play: what it refuses before a node is started, in one line each."""

import numpy as np
import pytest

pytest.importorskip('rosbags.rosbag2', reason='bags need rosbags')
from rosbags.rosbag2 import StoragePlugin, Writer  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402

from neuron_chunk_ros.cli.main import main  # noqa: E402

TYPES = get_typestore(Stores.ROS2_HUMBLE)
IMAGE, STRING = 'sensor_msgs/msg/Image', 'std_msgs/msg/String'
ASK = ['--ask', 'what is this?']


def image(encoding='rgb8', side=64):
    types = TYPES.types
    header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](7, 0), 'camera')
    return TYPES.serialize_cdr(types[IMAGE](header, side, side, encoding, 0, side * 3,
                                            np.zeros(side * side * 3, np.uint8)), IMAGE)


def write(path, messages, storage='sqlite3'):
    """Write a bag of (topic, type, bytes), ten a second."""
    with Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        connections = {}
        for index, (topic, kind, data) in enumerate(messages):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=TYPES)
            writer.write(connections[topic], 10**18 + index * 10**8, data)
    return path


@pytest.fixture
def refused(capsys, monkeypatch):
    """Play with these arguments and return the one line it ends with."""
    from neuron_chunk_ros.programs.playback import run

    def no_node(*_):
        raise AssertionError('a node would be started')
    monkeypatch.setattr(run, 'ChildProcess', no_node)

    def play(*arguments):
        assert main(['play', *map(str, arguments)]) == 1
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and error[0].startswith('neuron-chunk: error: '), error
        return error[0].removeprefix('neuron-chunk: error: ')
    return play


def test_a_bag_without_images_tells_what_it_holds(tmp_path, refused):
    text = TYPES.serialize_cdr(TYPES.types[STRING]('hello'), STRING)
    bag = write(tmp_path / 'bag', [('/chatter', STRING, text)] * 3)
    assert refused(bag, *ASK) == f'{bag}: the bag holds no images, only /chatter ({STRING}, 3)'


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_several_cameras_must_be_chosen_from(tmp_path, refused, storage):
    bag = write(tmp_path / 'bag', [('/left/image_raw', IMAGE, image()),
                                   ('/right/image_raw', IMAGE, image())] * 2, storage)
    listed = '/left/image_raw (Image, 2), /right/image_raw (Image, 2)'
    assert refused(bag, *ASK).endswith(f'several image topics: choose with --topic from {listed}')
    line = refused(bag, *ASK, '--topic', '/rear/image_raw')
    assert line.endswith(f'no images on /rear/image_raw: the bag holds {listed}')
    same = ['--camera', 'eye=/left/image_raw', '--camera', 'eye=/right/image_raw']
    assert 'eye is given twice' in refused(bag, *ASK, *same)


def test_depth_is_not_chosen(tmp_path, refused):
    bag = write(tmp_path / 'bag', [('/a/image_raw', IMAGE, image('16UC1')),
                                   ('/depth/image_raw', IMAGE, image())])
    assert 'only depth images' in refused(bag, *ASK)


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
@pytest.mark.parametrize('damage', ['cut', 'empty file', 'other bytes', 'no metadata', 'nothing',
                                    'broken metadata'])
def test_a_broken_bag_is_one_line(tmp_path, refused, storage, damage):
    messages = [] if damage == 'nothing' else [('/image', IMAGE, image())] * 20
    bag = write(tmp_path / 'bag', messages, storage)
    file = next(path for path in bag.iterdir() if path.suffix in ('.db3', '.mcap'))
    if damage == 'cut':
        file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
    elif damage == 'empty file':
        file.write_bytes(b'')
    elif damage == 'other bytes':
        file.write_bytes(b'\x07' * 100_000)
    elif damage == 'no metadata':
        (bag / 'metadata.yaml').unlink()
    elif damage == 'broken metadata':
        (bag / 'metadata.yaml').write_text('rosbag2_bagfile_information: [1, 2')
    line = refused(bag, *ASK)
    assert str(bag) in line
    expected = {'no metadata': 'metadata.yaml is missing', 'nothing': 'the bag is empty'}
    assert expected.get(damage, 'not a readable bag') in line
    assert not list(tmp_path.glob('*_answers'))


def test_what_is_no_bag(tmp_path, refused):
    assert 'no such bag' in refused(tmp_path / 'nowhere', *ASK)
    assert 'holds no metadata.yaml' in refused(tmp_path, *ASK)
    (tmp_path / 'old.bag').write_bytes(b'#ROSBAG V2.0\n')
    assert 'is a ROS 1 bag: convert it' in refused(tmp_path / 'old.bag', *ASK)
    (tmp_path / 'notes.txt').touch()
    assert 'give a rosbag2 folder' in refused(tmp_path / 'notes.txt', *ASK)


@pytest.mark.parametrize('arguments, message', [
    ([], 'nothing would be asked: give --ask'),
    (['--at', '9=what?'], "'what?' is to be asked at 9 s, but 0.0 to 0.9 s of the bag"),
    (['--start', '2', *ASK], 'start is 2 s, the bag is 0.9 s long'),
    (['--duration', '0', *ASK], 'duration must be above 0'),
    (['--rate', '0', *ASK], 'rate is 0: give 0.01 to 100'),
    (['--ask', ' '], 'a question is empty'),
    (['--param', 'window=3', *ASK], "parameter 'window=3': write NAME:=VALUE"),
    (['--live', *ASK], 'keeps its own parameters'),
    (['--node', '/robot/vlm', *ASK], 'give --live'),
    (['--camera', 'front-left=/image', *ASK], "camera 'front-left'"),
])
def test_what_cannot_work(tmp_path, refused, arguments, message):
    bag = write(tmp_path / 'bag', [('/image', IMAGE, image())] * 10)
    assert message in refused(bag, *arguments)


def test_an_existing_folder_is_left_alone(tmp_path, refused):
    bag = write(tmp_path / 'bag', [('/image', IMAGE, image())])
    out = tmp_path / 'bag_answers'
    out.mkdir()
    (out / 'mine').touch()
    assert f'{out} already exists' in refused(bag, *ASK)
    assert f'{tmp_path}/no is not a folder' in refused(bag, *ASK, '--out', tmp_path / 'no' / 'x')
    assert [path.name for path in out.iterdir()] == ['mine']


def test_bad_usage(capsys):
    for wrong in (['--at', 'soon'], ['--at', 'x=what?'], ['--camera', '/image']):
        with pytest.raises(SystemExit) as ended:
            main(['play', 'bag', *wrong])
        assert ended.value.code == 2
    assert 'write SECONDS=QUESTION' in capsys.readouterr().err
