# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What strangers may ask for: refused at arrival with the numbers, before any work or memory."""

import array
import io
import threading
import time

import numpy as np
import PIL.Image
import pytest
import rclpy
from faulty_reader import FaultyReader
from node_client import image
from sensor_msgs.msg import CompressedImage, Image

from neuron_chunk_interfaces.action import Ask
from neuron_chunk_interfaces.srv import Query
from neuron_chunk_ros.engine.session import Session
from neuron_chunk_ros.limits import Limits
from neuron_chunk_ros.node.active import Active
from neuron_chunk_ros.node.annotated import Annotated
from neuron_chunk_ros.node.diagnostics import ERROR, OK, statuses
from neuron_chunk_ros.node.image_conversion import ConversionError, to_rgb
from neuron_chunk_ros.node.loaded_model import LoadedModel, bundle_path
from neuron_chunk_ros.node.settings import Parameters
from neuron_chunk_ros.node.tally import Tally

SMALL = Limits(megapixels=1.0)


def small(width=8, height=8):
    return image(np.zeros((height, width, 3), np.uint8))


def told(width, height):
    """Return a message that tells of more pixels than it has."""
    return Image(width=width, height=height, encoding='mono8', step=width,
                 data=array.array('B', b'1234'))


class Node:
    """A node's parts without its process: what answers, and what it counts."""

    def __init__(self, **parameters):
        self.node = rclpy.create_node('limited', parameter_overrides=[
            rclpy.Parameter(name, value=value) for name, value in parameters.items()])
        settings = Parameters(self.node)
        self.settings, self.tally = settings.settings, Tally()
        self.session = Session.open(bundle_path('tabletop'), limits=self.settings.limits(),
                                    drafts=False, head_mb=0, read_timeout=60.0)
        model = LoadedModel(self.session, self.settings, lambda _: None, self.node.get_logger())
        self.active = Active(self.node, model, settings, self.tally, lambda _: None,
                             Annotated(self.node))

    def ask(self, given_up=lambda: '', **fields):
        fields = {'prompt': 'how many things are there?', **fields}
        return self.active.answering.answer(Query.Request(**fields), given_up=given_up).fill(
            Query.Response())

    def storage(self):
        return statuses.storage(self.tally.now(), self.session, 'auto', self.settings)

    def model(self):
        return statuses.model(self.tally.now(), self.active.worker.load(), {}, self.settings)

    def close(self):
        assert self.active.close('the test is over', 5.0)
        self.session.close()
        self.node.destroy_node()


@pytest.fixture
def node(client):
    nodes = []

    def make(**parameters):
        nodes.append(Node(**parameters))
        return nodes[-1]
    yield make
    for one in nodes:
        one.close()


@pytest.mark.parametrize('fields, words', [
    ({'images': [small()] * 5}, 'the question has 5 images, 4 are allowed'),
    ({'images': [small(900, 900)] * 2},
     'images of 1.6 million pixels (the largest has 900 x 900)'),
    ({'images': [told(1 << 31, 1 << 31)]}, '1 million are allowed'),
    ({'prompt': 'what? ' * 50}, 'the prompt has 300 bytes, 256 are allowed'),
    ({'prompt': 'é' * 200}, 'the prompt has 400 bytes, 256 are allowed'),
    ({'images': [told(1 << 31, 0)]}, 'an image is empty (2147483648 x 0 pixels)'),
    ({'images': [small(), told(0, 5)]}, 'an image is empty (0 x 5 pixels)'),
    ({'cameras': ['x' * 9000]}, "there is no camera 'xxxxxxxx"),
    ({'cameras': ['x'] * 65}, 'the question names 65 cameras, 64 are allowed'),
    ({'images': [small(700, 700)] * 2}, 'the images of waiting questions take 0.0 MiB'),
])
def test_refused_at_arrival(node, fields, words):
    one = node(max_images=4, max_megapixels=1.0, max_prompt_bytes=256, max_waiting_mb=1)
    response = one.ask(**fields)
    assert not response.success and words in response.message and one.tally.now().failed == 0
    assert len(response.message) < 300
    assert one.ask(images=[small(320, 240)]).success


def test_more_tokens_than_fit_are_refused_by_size_alone(node):
    one = node(max_images=1000)
    with one.session as session:
        most = session.context // session._prompts.frame_tokens
        began = time.monotonic()
        response = one.ask(images=[told(1, 1)] * (most + 1))
        assert f'the context holds {session.context}' in response.message
        assert time.monotonic() - began < 1


def test_images_of_waiting_questions_share_a_limit(node):
    """Each waits for the worker, which is kept busy; one more has no room."""
    one = node(max_waiting_mb=1)
    free = threading.Event()
    busy = one.active.worker.submit(lambda ticket: free.wait())
    found = []
    askers = [threading.Thread(target=lambda: found.append(one.ask(images=[small(300, 300)])))
              for _ in range(3)]
    for asker in askers:
        asker.start()
    while one.active.worker.load().waiting < 3:
        time.sleep(0.01)
    refused = one.ask(images=[small(300, 300)])
    assert 'more than 1 (max_waiting_mb)' in refused.message
    free.set()
    for asker in askers:
        asker.join()
    assert busy.wait(5) and all(response.success for response in found)
    assert one.ask(images=[small(300, 300)]).success


@pytest.mark.parametrize('kind, options', [
    ('PNG', {}), ('WEBP', {'lossless': True}), ('BMP', {}), ('TIFF', {'compression': 'tiff_lzw'}),
    ('JPEG', {})])
def test_coded_images_are_measured_before_they_are_decoded(kind, options):
    """Fifty bytes may tell of a quarter of a billion pixels."""
    coded = io.BytesIO()
    PIL.Image.new('L' if kind == 'PNG' else 'RGB', (1200, 900)).save(coded, kind, **options)
    message = CompressedImage(format=kind.lower(), data=array.array('B', coded.getvalue()))
    with pytest.raises(ConversionError, match=r'1200 x 900 pixels, 1 million are allowed'):
        to_rgb(message, SMALL)
    assert to_rgb(message).shape == (900, 1200, 3)


@pytest.mark.parametrize('message', [told(1001, 1000), told(1 << 31, 1), told(2, 1 << 30)])
def test_raw_images_are_measured_before_they_are_converted(message):
    with pytest.raises(ConversionError, match='1 million are allowed'):
        to_rgb(message, SMALL)


def test_a_goals_images_are_let_go_of(vlm, picture):
    """rclpy keeps each goal for half a minute."""
    def resident():
        with open(f'/proc/{vlm.process.pid}/statm') as file:
            return int(file.read().split()[1]) * 4096
    large = image(np.zeros((1000, 2000, 3), np.uint8))
    for number in range(30):
        if number == 6:
            before = resident()
        assert vlm.outcome(vlm.send_goal(images=[large])).result.success
    assert resident() - before < 12 * 6_000_000


@pytest.mark.parametrize('fields', [{}, {'max_new_tokens': 3}])
def test_askers_hear_at_their_deadline_though_a_read_never_returns(node, picture, fields):
    one = node()
    assert one.ask(images=[picture]).success
    faulty = FaultyReader(one.session, lambda number: number == 2, hangs=True)
    began = time.monotonic()
    response = one.ask(images=[picture], deadline=1.5, **fields)
    heard = time.monotonic() - began
    assert not response.success and 'the deadline of 1.5 s passed' in response.message
    assert 1.4 < heard < 3
    waited = one.session.read_under_way()
    status = one.storage()
    assert waited > 1 and status.level == ERROR
    assert status.message.startswith('a read has been under way for ')
    # Those that follow hear why, at once.
    response = one.ask(images=[picture], deadline=30.0)
    assert 'a read has been under way' in response.message
    faulty.back.set()
    while not one.session._products.drive.usable():
        time.sleep(0.001)
    assert one.ask(images=[picture]).success and one.storage().level != ERROR


@pytest.mark.parametrize('how', ['cancel', 'reset', 'deactivate'])
def test_a_hanging_read_holds_nobody(node, picture, how):
    one = node()
    assert one.ask(images=[picture]).success
    faulty = FaultyReader(one.session, lambda number: number == 2, hangs=True)
    tell, found = [''], []
    asker = threading.Thread(target=lambda: found.append(
        one.ask(images=[picture], given_up=lambda: tell[0])))
    asker.start()
    while not one.session.read_under_way():
        time.sleep(0.01)
    began = time.monotonic()
    if how == 'cancel':
        tell[0] = 'cancelled by who asked'
    elif how == 'reset':
        assert one.active.reset() == 1
    else:
        assert one.active.close('the node is being deactivated', 4.0)
    asker.join(5.0)
    assert found and not found[0].success and time.monotonic() - began < 2
    faulty.back.set()


def test_weights_that_are_no_numbers_give_no_answer(node, picture):
    one = node()
    for parameter in one.session._model.model.language_model.norm.parameters():
        parameter.data[3] = float('nan')
    response = one.ask(images=[picture])
    assert not response.success and 'logits are not finite' in response.message
    assert one.model().level == ERROR
    for parameter in one.session._model.model.language_model.norm.parameters():
        parameter.data[3] = 1.0
    assert one.ask(images=[picture]).success
    assert one.model().level == OK


def test_deadlines_hold_while_the_worker_is_busy_with_anything(node, picture, monkeypatch):
    """A converter that takes its time stands for a large picture, or a long prompt."""
    one = node()
    assert one.ask(images=[picture]).success
    slow = one.session._prompts.encode
    monkeypatch.setattr(one.session._prompts, 'encode',
                        lambda images: time.sleep(2.0) or slow(images))
    began = time.monotonic()
    response = one.ask(images=[picture], deadline=0.5)
    assert 'the deadline of 0.5 s passed' in response.message
    assert time.monotonic() - began < 1.5
    monkeypatch.undo()
    assert one.ask(images=[picture], deadline=10.0).success


def test_goals_and_calls_take_the_same_limits():
    assert Ask.Goal.get_fields_and_field_types() == Query.Request.get_fields_and_field_types()


@pytest.mark.parametrize('count', [1, 32])
def test_pictures_take_no_more_than_is_said(node, count):
    session = node().session
    patches, values = session._prompts.most_patches(count, session.context)
    made = session.prepare('what?', [np.zeros((300, 400, 3), np.uint8)] * count)
    pixels = [value for value in made.values() if value.is_floating_point()]
    assert 0 < sum(value.numel() for value in pixels) <= patches * values
    assert session.picture_bytes(count) > sum(value.nbytes for value in pixels)
