# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The annotated image: lazy, whole, and never the reason that an answer is lost."""

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from hypothesis import example, given, settings
from hypothesis import strategies as st
from node_client import until
from PIL import ImageDraw, ImageFont
from rcl_interfaces.msg import Log
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from neuron_chunk_interfaces.msg import Answer, IoTelemetry, Timing
from neuron_chunk_ros.node import annotated
from neuron_chunk_ros.node.annotated import Annotated, draw


def answer(stamps=(0.0,), cameras=(), **fields):
    headers = [Header(stamp=Time(sec=int(s), nanosec=int(s % 1 * 1e9)), frame_id='lens')
               for s in stamps]
    told = {'prompt': 'how many things are there?', 'text': 'three', 'confidence': 0.75,
            'model': 'tabletop', 'images': headers, 'cameras': list(cameras),
            'header': headers[-1] if headers else Header(),
            'io': IoTelemetry(bytes_read=12_345_678, importance_kept=0.873, policy='greedy'),
            'timing': Timing(total=0.412)}
    return Answer(**{**told, **fields})


def pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def node(client):
    node = rclpy.create_node('artist')
    yield node
    node.destroy_node()


@pytest.fixture
def topic(node):
    topic = Annotated(node)
    yield topic
    topic.close()


@pytest.fixture
def listen(client):
    """Subscribe to the artist's topic: listen() returns the list that fills."""
    subscriptions = []

    def listen(qos=1):
        heard = []
        subscriptions.append(
            client.node.create_subscription(Image, '/artist/annotated', heard.append, qos))
        return heard

    yield listen
    for subscription in subscriptions:
        client.node.destroy_subscription(subscription)


class Untouched:
    """Pictures that remember whether anybody looked at them, and fail then."""

    looks = 0

    def __len__(self):
        self.looks += 1
        raise RuntimeError('looked\nat')

    __iter__ = __getitem__ = __len__


def test_nothing_is_drawn_until_somebody_listens(topic, listen):
    pictures = Untouched()
    assert not topic.wanted()
    topic.publish(answer(), pictures)
    assert pictures.looks == 0
    heard = listen()
    until(topic.wanted, what='the listener')
    topic.publish(answer(), pictures)
    assert pictures.looks == 1
    topic.publish(answer(), [pixels(48, 64)])
    until(lambda: heard, what='a picture')


def test_listeners_that_leave_are_noticed(topic, client):
    subscription = client.node.create_subscription(Image, '/artist/annotated', print, 1)
    until(topic.wanted, what='the listener')
    client.node.destroy_subscription(subscription)
    until(lambda: not topic.wanted(), what='the listener to leave')


def test_message_holds_header_and_source_pictures_pixel_for_pixel(topic, listen):
    heard = listen(rclpy.qos.qos_profile_sensor_data)  # as image viewers do
    until(topic.wanted, what='the listener')
    sources = [pixels(240, 320, 1), pixels(240, 200, 2)]
    told = answer((7.25, 7.5), ('front', 'left'))
    topic.publish(told, sources)
    until(lambda: heard, what='a picture')
    message = heard[0]
    assert message.header == told.header and message.header.stamp.sec == 7
    assert (message.encoding, message.is_bigendian) == ('rgb8', 0)
    assert message.step == message.width * 3
    shown = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
    assert message.width == 320 + 200 + annotated._GAP
    top = row_of(shown, sources[0])
    assert np.array_equal(shown[top:top + 240, :320], sources[0])
    assert np.array_equal(shown[top:top + 240, -200:], sources[1])
    assert top > 0 and message.height > top + 240  # captions above, the band below


def row_of(shown, source):
    """Return the row at which a picture's first row appears, at the left edge."""
    first = shown[:, :source.shape[1]]
    rows = np.flatnonzero((first == source[0]).all(axis=(1, 2)))
    assert rows.size == 1
    return rows[0]


def test_a_picture_that_cannot_be_drawn_is_told_once_and_raises_nothing(topic, listen, client):
    told = []
    log = client.node.create_subscription(
        Log, '/rosout', lambda m: m.name == 'artist' and told.append(m.msg), 100)
    until(lambda: client.node.count_publishers('/rosout') >= 2, what='the log')
    heard = listen()
    until(topic.wanted, what='the listener')
    until(lambda: log_connected(topic), what='the log to be read')
    for _ in range(3):
        topic.publish(answer(), Untouched())
        topic.publish(answer(), [np.zeros((0, 4, 3), np.uint8)])
    topic.publish(answer(), [pixels(8, 8)])
    until(lambda: heard, what='a picture after the bad ones')
    until(lambda: len(told) >= 2, what='both complaints')
    client.node.destroy_subscription(log)
    assert len(told) == 2
    assert any('RuntimeError: looked at' in line for line in told)


def log_connected(topic):
    return topic._node.count_subscribers('/rosout')


def test_closing_takes_the_topic_down_and_it_can_come_back(node, listen, client):
    heard = listen()
    for _ in range(2):  # as configure and cleanup do
        topic = Annotated(node)
        until(topic.wanted, what='the listener')
        topic.publish(answer(), [pixels(8, 8)])
        until(lambda: heard, what='a picture')
        heard.clear()
        topic.close()
        topic.close()
        assert not topic.wanted()
        topic.publish(answer(), Untouched())
        until(lambda: not client.node.count_publishers('/artist/annotated'), what='the end')


def test_quality_of_service_can_be_overridden(node):
    topic = Annotated(node)
    assert node.has_parameter('qos_overrides./artist/annotated.publisher.reliability')
    topic.close()


@pytest.mark.parametrize('size,scale', [((64, 64), 3), ((180, 100), 1), ((1080, 1920), 1),
                                        ((7, 9), 26)])
def test_small_pictures_grow_by_whole_pixels_large_ones_stay(size, scale):
    source = pixels(*size)
    shown = np.asarray(draw(answer(), [source]))
    height, width = size[0] * scale, size[1] * scale
    left = (shown.shape[1] - max(width, annotated._CELL)) // 2
    assert np.array_equal(
        shown[:height, left:left + width], source.repeat(scale, 0).repeat(scale, 1))
    # Below it something is written, and nothing touches the edges.
    band = shown[height + annotated._GAP:].max(2)
    assert (band > 140).sum() > 300
    assert band[:, [0, -1]].max() == band[[0, -1]].max() == max(annotated._GROUND)


def test_too_large_pictures_shrink_to_what_they_show():
    source = np.zeros((2160, 3840, 3), np.uint8)
    source[:, 1920:] = (250, 10, 10)
    shown = np.asarray(draw(answer(), [source]))
    assert shown.shape[1] == 1920
    assert not shown[:1080, :955].any() and (shown[:1080, 965:] == (250, 10, 10)).all()


@pytest.mark.parametrize('count', [0, 1, 2, 3, 4, 5, 7, 8, 12])
@pytest.mark.parametrize('size', [(720, 1280), (64, 64), (3000, 3), (3, 3000)])
def test_any_number_of_pictures_stays_in_bounds(count, size):
    shown = draw(answer([float(i) for i in range(count)], ['cam'] * count),
                 [np.full((*size, 3), 77, np.uint8)] * count)
    assert annotated.NARROWEST <= shown.width <= annotated.WIDEST
    assert shown.height < annotated.HIGHEST + 500


def test_pictures_of_several_sizes_get_one_height_and_keep_their_shape():
    sources = [np.full((h, w, 3), v, np.uint8)
               for h, w, v in [(64, 64, 90), (480, 640, 91), (900, 300, 92)]]
    shown = np.asarray(draw(answer((0.0,) * 3), sources))
    sizes = []
    for value in (90, 91, 92):
        rows, columns = np.nonzero((shown == value).all(2))
        sizes.append((np.ptp(rows) + 1, np.ptp(columns) + 1))
    heights, widths = zip(*sizes, strict=True)
    assert len(set(heights)) == 1
    assert np.allclose(np.divide(widths, heights), [1, 4 / 3, 1 / 3], atol=0.01)


def test_the_last_pictures_are_shown_in_a_grid_and_the_rest_is_counted():
    values = list(range(100, 112))
    shown = np.asarray(draw(answer([0.0] * 12), [
        np.full((200, 200, 3), value, np.uint8) for value in values]))
    where = {v: np.argwhere((shown == v).all(2)) for v in values}
    where = {v: tuple(w.min(0)) for v, w in where.items() if len(w) >= 200 * 200}
    assert list(where) == values[4:]
    assert sorted(where, key=where.get) == values[4:]  # in reading order
    assert len({row for row, _ in where.values()}) == 2
    assert '4 earlier images not shown' in annotated._bill(answer(), 4)


def test_captions_are_the_cameras_and_the_age_where_one_has_several():
    told = answer((1.0, 1.5, 1.5), ('front', 'front', 'left'))
    assert annotated._captions(told, 3) == ['front -0.50 s', 'front', 'left']
    assert annotated._captions(answer((1.0, 1.5), ('a', 'b')), 2) == ['a', 'b']
    assert annotated._captions(answer((1.0,)), 2) == ['', '']  # nobody said


def test_bill_names_what_was_read_kept_and_waited():
    bill = annotated._bill(answer(finish_reason=Answer.FINISH_DEADLINE), 0)
    for part in ('tabletop, greedy', '12.3 MB read', '87 % of the importance kept', '412 ms',
                 'ended early: deadline'):
        assert part in bill
    good = annotated._bill(answer(finish_reason=Answer.FINISH_STOP), 0)
    assert 'ended early' not in good and 'coarse' not in good
    assert 'coarse' in annotated._bill(answer(coarse=True), 0)
    sparing = IoTelemetry(attention_density=0.417)
    assert '42 % of the attention' in annotated._bill(answer(io=sparing), 0)
    assert 'attention' not in annotated._bill(answer(io=IoTelemetry(attention_density=1.0)), 0)


@given(st.text(max_size=120), st.integers(40, 600), st.integers(1, 5))
@example('word ' * 300, 200, 3)
@example('x' * 9000, 1900, 12)
@settings(max_examples=150, deadline=None)
def test_text_is_wrapped_whole_or_ends_in_an_ellipsis(text, width, most):
    style = annotated._Text(17, (255, 255, 255))
    lines = style.wrap(text, width, most)
    assert len(lines) <= most
    assert all(style._width(line) <= width or len(line) == 1 for line in lines)
    whole = ''.join(c for c in text if c.isprintable() and not c.isspace())
    written = ''.join(''.join(lines).split())
    if written != whole:
        assert written.endswith('…') and whole.startswith(written[:-1])


def test_words_are_not_broken_where_a_line_can_hold_them():
    style = annotated._Text(17, (255, 255, 255))
    text = 'the quick brown fox jumps over the lazy dog'
    lines = style.wrap(text, 120)
    assert len(lines) > 2 and ' '.join(lines) == text


@pytest.mark.parametrize('text', [
    'три · τρία · שלוש · ثلاثة · 三つ · 세 · 🙂', 'e\u0301\u200d\u202e\u200b', '\x00\x1b[31m\n\t',
    '\U0010ffff\ue000', 'x' * 100_000, ' '])
def test_any_text_can_be_drawn(text):
    told = answer(prompt=text, text=text, model=text[:50], cameras=[text[:50]])
    shown = draw(told, [np.full((64, 64, 3), 77, np.uint8)])
    assert shown.height < 1200


def test_old_pillows_only_font_will_do(monkeypatch):
    # Before 10.1 there is one small font, which fails on what isn't Latin-1.
    plain = getattr(ImageFont, 'load_default_imagefont', ImageFont.load_default)()
    with pytest.raises(UnicodeEncodeError):
        ImageDraw.Draw(draw(answer(), [])).text((0, 0), 'три', font=plain)
    monkeypatch.setattr(annotated, '_font', lambda size: plain)
    shown = np.asarray(draw(answer(text='три €'), [np.full((200, 480, 3), 77, np.uint8)]))
    assert (shown[206:] > 200).any()
