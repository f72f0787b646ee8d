# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Recorded bags through real nodes: what comes out is about what went in."""

import csv
import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from node_client import VlmProcess, until
from PIL import Image as Picture
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image

import neuron_chunk_interfaces
from neuron_chunk_ros.programs.demo.scene_stream import nth_scene
from neuron_chunk_ros.programs.playback import PlaybackOptions, page
from neuron_chunk_ros.programs.playback.cameras import derived_name
from neuron_chunk_ros.programs.playback.output import typestore
from neuron_chunk_ros.programs.playback.results import Results
from neuron_chunk_ros.tabletop.scenes import render

STORE = get_typestore(Stores.ROS2_HUMBLE)
TYPES = STORE.types
BEGIN = 1_700_000_000 * 10**9
STEP = 10**8          # between frames [ns]
EXPOSED = 7_000_000   # from a frame's stamp to its arrival [ns]
COUNT, LEFT = 'how many things are there?', 'what colour is the circle?'


@functools.cache
def picture(camera, scene, compressed):
    """Return a scene as the bytes of an image message's data."""
    pixels = render(nth_scene(camera, scene), (320, 240))
    if not compressed:
        return pixels.reshape(-1)
    data = io.BytesIO()
    Picture.fromarray(pixels).save(data, 'jpeg', quality=95)
    return np.frombuffer(data.getvalue(), np.uint8)


def frame(index, camera, compressed):
    """Return the type and the bytes of a camera's frame; its scene changes once a second."""
    data = picture(camera, index // 10, compressed)
    stamp = divmod(BEGIN + index * STEP - EXPOSED, 10**9)
    header = TYPES['std_msgs/msg/Header'](TYPES['builtin_interfaces/msg/Time'](*stamp), 'lens')
    if compressed:
        kind = 'sensor_msgs/msg/CompressedImage'
        message = TYPES[kind](header, 'jpeg', data)
    else:
        kind = 'sensor_msgs/msg/Image'
        message = TYPES[kind](header, 240, 320, 'rgb8', 0, 960, data)
    return kind, STORE.serialize_cdr(message, kind)


def record(path, storage, frames, topics=('/front/image_raw',), compressed=False):
    """Write a bag in which each topic has so many frames, ten a second."""
    writer = Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()])
    if compressed:
        writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        words = writer.add_connection('/chatter', 'std_msgs/msg/String', typestore=STORE)
        writer.write(words, BEGIN, STORE.serialize_cdr(
            TYPES['std_msgs/msg/String']('hello'), 'std_msgs/msg/String'))
        connections = {}
        for index in range(frames):
            for camera, topic in enumerate(topics):
                kind, data = frame(index, camera, compressed)
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
                writer.write(connections[topic], BEGIN + index * STEP, data)
    return path


def stamps(frames):
    return [BEGIN + index * STEP - EXPOSED for index in range(frames)]


def start(bag, *arguments):
    return subprocess.Popen(
        [sys.executable, '-m', 'neuron_chunk_ros.cli.main', 'play', str(bag), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'PYTHONUNBUFFERED': '1'})


def play(bag, *arguments):
    """Play a bag to its end; return the lines printed."""
    with start(bag, *arguments) as process:
        out, errors = process.communicate(timeout=150)
    assert process.returncode == 0, out + errors
    assert 'Traceback' not in errors
    return out.splitlines()


def wait_for_answer(process):
    """Read what a playback prints until its first answer."""
    for line in process.stdout:
        if '?' in line:
            return
    raise AssertionError(process.stderr.read())


def read(folder):
    """Return {topic: [(bag time, message)]} of a bag that was made, and its rows."""
    store, found = typestore(), {}
    with Reader(folder) as reader:
        for connection, at, data in reader.messages():
            assert connection.digest == store.hash_rihs01(connection.msgtype)
            found.setdefault(connection.topic, []).append(
                (at, store.deserialize_cdr(data, connection.msgtype)))
    with open(folder / 'answers.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    return found, rows


def nanoseconds(header):
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def check(folder, frames, rate):
    """Compare bag, table and page with each other, and with what was played."""
    messages, rows = read(folder)
    answers = messages['/vlm/answer']
    assert len(rows) == len(answers)
    for (at, answer), row in zip(answers, rows, strict=True):
        stamp = nanoseconds(answer.header)
        assert stamp in stamps(frames)
        assert {nanoseconds(header) for header in answer.images} <= set(stamps(frames))
        # An answer comes after its frame, by its latency at the least.
        assert at - stamp - EXPOSED > answer.timing.prefill * 1e9 * rate
        seconds, nanos = row['stamp'].split('.')
        assert int(seconds) * 10**9 + int(nanos) == stamp
        assert (row['question'], row['text']) == (answer.prompt, answer.text)
        assert float(row['megabytes']) == pytest.approx(answer.io.bytes_read / 1e6, abs=1e-3)
        assert float(row['at']) == pytest.approx((at - BEGIN) / 1e9, abs=1e-3)
    steps = [step for _, step in messages['/vlm/telemetry'] if step.step != 'answer']
    # A standing prompt that made way for a question has steps, but no answer.
    billed = sum(a.io.bytes_read for _, a in answers)
    assert sum(step.bytes_read for step in steps) >= billed > 0
    for at, array in messages.get('/diagnostics', []):
        assert nanoseconds(array.header) == at
        assert all('vlm' in status.name for status in array.status)
    with Picture.open(folder / 'page.png') as page:
        assert page.width > 1000 and page.height > 800
    return answers


@pytest.mark.slow
def test_standing_and_single_questions(tmp_path):
    bag = record(tmp_path / 'bag', 'sqlite3', 50)
    lines = play(bag, '--rate', '2', '--ask', COUNT, '--at', f'0={LEFT}', '--at', f'3.35={LEFT}')
    answers = check(tmp_path / 'bag_answers', 50, 2)
    assert '/diagnostics' in read(tmp_path / 'bag_answers')[0]
    assert {path.name for path in (tmp_path / 'bag_answers').iterdir()} == {
        'metadata.yaml', 'answers.db3', 'answers.csv', 'page.png'}
    single = [(at, answer) for at, answer in answers if answer.prompt == LEFT]
    assert len(single) == 2 and not any(answer.standing for _, answer in single)
    assert abs(nanoseconds(single[1][1].header) - (BEGIN + 3_350_000_000)) < 10**9
    standing = [answer for _, answer in answers if answer.standing]
    assert {answer.prompt for answer in standing} == {COUNT}
    # The scenes hold 1 to 4 things; the model is good, not perfect.
    truth = {stamp: len(nth_scene(0, index // 10).things)
             for index, stamp in enumerate(stamps(50))}
    right = [answer.text == ('none', 'one', 'two', 'three', 'four')[truth[
        nanoseconds(answer.header)]] for answer in standing]
    assert len(right) >= 5 and sum(right) > 0.6 * len(right)
    looked_at = {nanoseconds(header) for _, answer in answers for header in answer.images}
    told = re.match(r'50 frames played, (\d+) looked at, (\d+) answers, ', lines[-1])
    assert int(told[2]) == len(answers)
    # Also counted is a frame that a standing prompt looked at and told nothing new of, or whose
    # answer came when the recording was over.
    assert len(looked_at) <= int(told[1]) <= 50


@pytest.mark.slow
def test_two_cameras_and_ctrl_c(tmp_path):
    topics = ('/front/image_raw/compressed', '/camera/left/image_rect_color/compressed')
    bag = record(tmp_path / 'bag', 'mcap', 150, topics, compressed=True)
    with start(bag, '--topic', topics[0], '--camera', f'port={topics[1]}', '--at', f'0={COUNT}',
               '--out', str(tmp_path / 'out'), '--storage', 'sqlite3') as process:
        wait_for_answer(process)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and 'ended early: ' in out, out + errors
    answers = check(tmp_path / 'out', 150, 1)
    assert len(answers) == 1 and sorted(answers[0][1].cameras) == ['front', 'port']
    assert (tmp_path / 'out' / 'answers.db3').is_file()


@pytest.mark.slow
def test_a_node_that_dies(tmp_path):
    bag = record(tmp_path / 'bag', 'mcap', 150)
    out = tmp_path / 'out'
    with start(bag / 'bag.mcap', '--at', f'0={COUNT}', '--out', str(out)) as process:
        wait_for_answer(process)
        [node] = psutil.Process(process.pid).children()
        node.kill()
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert errors.splitlines()[-1] == 'neuron-chunk: error: the node ended with exit code -9'
    assert '[vlm]' in errors and 'Traceback' not in errors
    assert len(check(out, 150, 1)) == 1
    with start(bag, '--ask', COUNT, '--model', '/nowhere', '--out', str(tmp_path / 'o')) as none:
        errors = none.communicate(timeout=60)[1]
    assert none.returncode == 1 and "model '/nowhere' is not a folder" in errors
    assert not (tmp_path / 'o').exists()


@pytest.mark.slow
def test_into_a_running_node(tmp_path, client):
    bag = record(tmp_path / 'bag', 'sqlite3', 20)
    with VlmProcess(client, 'watcher') as node:
        node.wait_until_ready()
        arguments = ['--live', '--node', 'watcher', '--at', f'1={COUNT}', '--rate', '2']
        with start(bag, *arguments) as process:  # the test's own camera publishes there
            errors = process.communicate(timeout=60)[1]
        assert process.returncode == 1 and 'somebody publishes on /watcher/image' in errors
        client.node.destroy_publisher(node.images)
        until(lambda: not client.node.count_publishers('/watcher/image'))
        play(bag, *arguments)
        node.images = client.node.create_publisher(Image, 'watcher/image', 1)
        assert [answer.prompt for answer in node.answers] == [COUNT]
        assert node.process.exit_code() is None
    messages, [row] = read(tmp_path / 'bag_answers')
    assert row['question'] == COUNT and len(messages['/watcher/answer']) == 1
    assert nanoseconds(messages['/watcher/answer'][0][1].header) in stamps(20)


def test_definitions_are_those_of_the_installed_messages():
    store = typestore()
    share = next(parent / 'share' for parent in Path(neuron_chunk_interfaces.__file__).parents
                 if (parent / 'share' / 'neuron_chunk_interfaces').is_dir())
    described = list((share / 'neuron_chunk_interfaces' / 'msg').glob('*.json'))
    if not described:
        pytest.skip('this ROS distribution installs no type hashes')
    for path in described:
        for known in json.loads(path.read_text())['type_hashes']:
            if known['type_name'] in store.fielddefs:
                assert store.hash_rihs01(known['type_name']) == known['hash_string']


@pytest.mark.parametrize('topic, name', [
    ('/front/image_raw', 'front'), ('/camera/left/image_rect_color/compressed', 'left'),
    ('/left_camera/color/image_raw', 'left_camera'), ('/image', 'image')])
def test_names_of_cameras(topic, name):
    assert derived_name(topic) == name


def test_a_page_without_answers(tmp_path):
    nothing = Results(PlaybackOptions(bag=Path('cost $1 or $2'), out=tmp_path), 'mcap', 0, [],
                      {'answer': [], 'telemetry': [], 'diagnostics': []}, {})
    page.draw(nothing, tmp_path / 'page.png')
    with Picture.open(tmp_path / 'page.png') as drawn:
        assert drawn.height > 800


@pytest.mark.parametrize('width', [5, 40, 100, 300])
def test_answers_fit_their_bars(width):
    text = 'a person with 3 $ crosses the corridor from the left and carries a box'
    lines = page._lines(text, width).replace(r'\$', '$').split('\n')
    assert len(lines) <= 2 and text.startswith(lines[0].rstrip('…'))
    for line in lines:
        assert len(line) * 3 < width + 9  # no letter of this size is narrower, on average


def test_time_runs_at_the_rate():
    from neuron_chunk_ros.programs.playback.clock import BagClock
    clock = BagClock(4.0)
    clock.start(1000)
    time.sleep(0.05)
    assert 0.2e9 <= clock.now() - 1000 < 20e9
    assert clock.until(clock.now() + 4 * 10**9) == pytest.approx(1.0, abs=0.5)
