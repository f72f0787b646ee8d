# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Ordinary mistakes in the graph: another type or QoS, a name given twice, misspelt parameters."""

import itertools

import pytest
import rclpy
from node_client import until
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from neuron_chunk_ros.node.cameras import Cameras
from neuron_chunk_ros.node.graph import namesakes, unknown_parameters
from neuron_chunk_ros.node.once import Once
from neuron_chunk_ros.node.qos import NEWEST_FRAME
from neuron_chunk_ros.node.settings import Parameters

WARN = b'\x01'
NUMBERS = itertools.count()


@pytest.fixture
def make(client):
    """Make a node with these parameter overrides; destroyed with the test."""
    nodes = []

    def create(name=None, **overrides):
        nodes.append(rclpy.create_node(
            name or f'mistaken_{next(NUMBERS)}', parameter_overrides=[
                Parameter(key, value=value) for key, value in overrides.items()]))
        return nodes[-1]
    yield create
    for node in nodes:
        node.destroy_node()


@pytest.fixture
def driver(client):
    """Give a node in a participant of its own: one knows each topic with one type alone."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node(f'driver_{next(NUMBERS)}', context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def watching(node):
    cameras = Cameras(node, Parameters(node), lambda camera: None)
    cameras.subscribe()
    return cameras


def unheard(cameras, publishers=1):
    """Return why the only camera hears none of so many publishers, once they are known."""
    found = until(lambda: (report := cameras.reports()[0]).publishers == publishers and report,
                  what='the publishers')
    with pytest.raises(Exception, match='no frame has come') as refused:
        cameras.newest()
    # Who it is may be known by now: its node is heard of a moment later.
    assert found.mismatch.partition(' publishes')[2] in str(refused.value)
    return found.mismatch


@pytest.mark.parametrize('transport, kind, words', [
    ('raw', CompressedImage, 'publishes sensor_msgs/msg/CompressedImage there, not '
                             'sensor_msgs/msg/Image: set image_transport to compressed'),
    ('compressed', Image, 'publishes sensor_msgs/msg/Image there, not '
                          'sensor_msgs/msg/CompressedImage: set image_transport to raw'),
    ('raw', String, 'publishes std_msgs/msg/String there, which is no image: remap the topic'),
    ('raw', Image, ''), ('compressed', CompressedImage, '')])
def test_another_type_is_named_with_the_cure(make, driver, transport, kind, words):
    cameras = watching(make(image_transport=transport))
    assert unheard(cameras, 0) == ''
    driver.create_publisher(kind, 'image', 1)
    found = unheard(cameras)
    assert words in found and bool(words) == bool(found)
    if words:
        until(lambda: f'/{driver.get_name()} publishes' in unheard(cameras), what='its name')


def test_one_that_fits_among_others(make, driver):
    """As where image_transport publishes both on one machine: nothing is wrong then."""
    cameras = watching(make())
    driver.create_publisher(CompressedImage, 'image', 1)
    assert unheard(cameras)
    make().create_publisher(Image, 'image', 1)
    assert unheard(cameras, 2) == ''


def test_another_qos_is_named(make):
    name = 'qos_overrides./image.subscription'
    cameras = watching(make(**{f'{name}.reliability': 'reliable',
                               f'{name}.durability': 'transient_local'}))
    make().create_publisher(Image, 'image', QoSProfile(
        depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    found = unheard(cameras)
    assert 'publishes there with another QoS' in found and 'qos_overrides.' in found
    assert '\n' not in found


def test_overrides_of_one_camera_are_its_own(make):
    """rclpy enters them in the profile that it is given."""
    name = 'qos_overrides./a/image.subscription.reliability'
    cameras = watching(make(cameras=['a', 'b'], **{name: 'reliable'}))
    policies = [cameras[camera]._subscription.qos_profile.reliability for camera in 'ab']
    assert policies == [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT]
    assert NEWEST_FRAME.reliability == ReliabilityPolicy.BEST_EFFORT
    assert NEWEST_FRAME.durability == DurabilityPolicy.VOLATILE


def test_a_second_node_of_the_name(make):
    node = make()
    assert namesakes(node) == 0
    make(f'{node.get_name()}x')
    other = rclpy.create_node(node.get_name(), namespace='/elsewhere')
    assert namesakes(node) == 0
    other.destroy_node()
    other = rclpy.create_node(node.get_name())
    until(lambda: namesakes(node) == 1, what='the other')
    other.destroy_node()
    until(lambda: namesakes(node) == 0, what='the other to be gone')


def test_parameters_that_are_not_known(make):
    qos = 'qos_overrides.{}.subscription.reliability'
    node = make(polcy='dense', sparsity=0.5, use_sim_time=False, cameras=['left'],
                **{'left.topic': 'eye', 'left.frameid': 'x', 'right.topic': 'y',
                   qos.format('/eye'): 'reliable', qos.format('/eyes'): 'reliable'})
    parameters = Parameters(node)
    found = unknown_parameters(node, parameters.names, subscribed=False)
    assert set(found) == {'polcy', 'left.frameid', 'right.topic'}
    assert found['polcy'] == ("parameter 'polcy' is not known here and does nothing: did you mean "
                              "'policy'?")
    assert "did you mean 'left.frame_id'?" in found['left.frameid']
    cameras = Cameras(node, parameters, lambda camera: None)
    cameras.subscribe()
    found = unknown_parameters(node, parameters.names, subscribed=True)
    assert set(found) == {'polcy', 'left.frameid', 'right.topic', qos.format('/eyes')}


@pytest.mark.slow
def test_the_node_says_so(start, client, driver):
    """All at once: each in the log once, on /diagnostics, and in the refusal."""
    vlm = start('mistaken', polcy='dense')
    status = vlm.status('setup', lambda s: s.level == WARN)
    assert "'polcy' is not known here and does nothing: did you mean 'policy'" in status.message
    driver.create_publisher(CompressedImage, 'mistaken/image', 1)
    client.node.destroy_publisher(vlm.cameras.pop(''))  # the right one
    words = f'/{driver.get_name()} publishes sensor_msgs/msg/CompressedImage there'
    vlm.status('frames', lambda s: words in s.message)
    assert f'{words}, not sensor_msgs/msg/Image: set image_transport to compressed' in (
        vlm.ask().message)
    other = rclpy.create_node('mistaken')
    vlm.status('setup', lambda s: 'another node is called /mistaken' in s.message)
    other.destroy_node()
    vlm.status('setup', lambda s: 'another node' not in s.message)
    output = vlm.process.output()
    assert output.count('another node is called /mistaken') == 1
    assert output.count("parameter 'polcy' is not known") == 1


def test_a_line_is_news_once():
    told = Once()
    assert told.news('a', 'a frame is 3.5 s old') and not told.news('a', 'a frame is 4 s old')
    assert told.news('b', 'a frame is 5 s old') and told.news('a', 'no frame')
    assert not told.news('b', 'a frame is 6 s old')
    told.over('b')
    assert told.news('b', 'a frame is 6 s old')
