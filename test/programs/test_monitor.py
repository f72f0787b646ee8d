# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The monitor: what it knows, how that looks, and that it only listens."""

import math
import random
import re
import time

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from hypothesis import given, settings
from hypothesis import strategies as st
from node_client import until
from rich.cells import cell_len

from neuron_chunk_interfaces.msg import Answer, IoTelemetry, Timing
from neuron_chunk_ros.node.qos import DIAGNOSTICS, RESULTS
from neuron_chunk_ros.programs.monitor.known import ERROR, OK, STALE, WARN, History, Known
from neuron_chunk_ros.programs.monitor.listener import Listener
from neuron_chunk_ros.programs.monitor.plain import line
from neuron_chunk_ros.programs.monitor.runner import full_name
from neuron_chunk_ros.programs.monitor.texts import clean, cut, shorten, sparkline, wrap
from neuron_chunk_ros.programs.monitor.view import ASCII, screen, snapshot

SIZES = [(80, 24), (200, 60), (40, 12), (30, 8), (20, 5), (10, 3), (1, 1)]
WALL = time.mktime((2026, 1, 2, 15, 4, 5, 0, 0, -1))


def answer(prompt='what is red?', text='the circle', seconds=0.5, **fields):
    return Answer(prompt=prompt, text=text, model='tabletop', confidence=0.9,
                  timing=Timing(total=seconds), io=IoTelemetry(policy='greedy'),
                  **{'finish_reason': 'stop', **fields})


def step(**fields):
    return IoTelemetry(**{'model': 'tabletop', 'policy': 'greedy', 'step': 'decode',
                          'importance_kept': 1.0, **fields})


def diagnostics(levels, node='vlm', message='as it is', **values):
    return DiagnosticArray(status=[
        DiagnosticStatus(name=f'{node}: {part}', level=bytes([level]), message=message,
                         values=[KeyValue(key=k, value=v) for k, v in values.items()])
        for part, level in levels.items()])


def plain(lines):
    return [str(line).rstrip() for line in lines]


def busy(name='/vlm'):
    known = Known(name, 0.0)
    values = {'stream frames': '4', 'stream tokens': '1024', 'stream capacity': '4096',
              'waiting': '1', 'queue limit': '4', 'answered': '7'}
    known.diagnosed(diagnostics({'storage': OK, 'model': WARN, 'frames front': OK, 'memory': OK,
                                 'thermal': ERROR}, **values), 9.0, WALL)
    known.stepped(step(seconds=0.5, bytes_read=50_000_000, rows_selected=3, rows_total=4), 9.0)
    for number in range(20):
        known.answered(answer(f'question {number}?', standing=number == 19), 9.5, WALL + number)
    return known


# what is known

durations = st.just(0.0) | st.floats(0.001, 5)


@given(st.lists(st.tuples(st.floats(100, 160), durations, st.integers(0, 10**9)), max_size=20))
def test_history_is_plain_arithmetic(steps):
    history = History()
    for at, duration, amount in steps:
        history.add(at, duration, amount)
    found = history.latest(161.0, 70)  # seconds 91 to 160
    assert sum(found) == pytest.approx(sum(amount for *_, amount in steps))
    for second, value in zip(range(91, 161), found, strict=True):
        expected = 0.0
        for at, duration, amount in steps:
            if duration == 0:
                expected += amount * (math.floor(at) == second)
            else:
                overlap = max(0.0, min(at, second + 1) - max(at - duration, second))
                expected += amount * overlap / duration
        assert value == pytest.approx(expected, abs=1e-3, rel=1e-3)


def test_history_forgets():
    history = History()
    for second in range(10_000):
        history.add(second + 0.5, 0.0, 1.0)
    assert len(history._sums) < 1000
    assert history.latest(10_000.0, 300) == [1.0] * 300 and history.rate(10_000.2) == 1.0


def test_rates_of_steps():
    known, chance = Known('/vlm', 0.0), random.Random(1)
    steps = [step(seconds=0.1, wait_seconds=chance.random() / 10,
                  bytes_read=chance.randrange(10**6), read_seconds=chance.random() / 10,
                  rows_total=100, rows_selected=chance.randrange(100),
                  importance_kept=chance.random(),
                  attention_density=chance.choice([0.0, 0.5, 0.25, 1.0]))
             for _ in range(70)]
    for number, message in enumerate(steps):
        known.stepped(message, 10.0 + number / 10)
        known.stepped(step(step='answer', bytes_read=10**12, rows_total=7), 10.0 + number / 10)
    recent = steps[-50:]

    def total(field):
        return sum(getattr(message, field) for message in recent)

    assert known.read_speed() == pytest.approx(total('bytes_read') / total('read_seconds'))
    assert known.rows_kept() == pytest.approx(total('rows_selected') / total('rows_total'))
    assert known.importance_kept() == pytest.approx(total('importance_kept') / 50)
    sparing = [one.attention_density for one in recent if 0 < one.attention_density < 1]
    assert known.attention_kept() == pytest.approx(sum(sparing) / len(sparing))
    assert known.waiting_share() == pytest.approx(total('wait_seconds') / total('seconds'))
    assert known.step_seconds() == {'decode': pytest.approx(0.1)}
    assert known.steps.rate(17.0) == pytest.approx(10.0)
    assert known.read.rate(17.0) == pytest.approx(  # the 21st ends as second 12 begins
        sum(message.bytes_read for message in steps[21:]) / 5, rel=0.01)


def test_latencies_are_of_the_last_hundred():
    known = Known('/vlm', 0.0)
    assert known.latencies() is None
    for number in range(1, 151):
        known.answered(answer(seconds=number / 100), 1.0, WALL)
    last, median, high, count = known.latencies()
    assert (last, median, high, count) == pytest.approx((1.5, 1.0, 1.45, 100))


def test_diagnostics_are_the_nodes_own():
    known = Known('/robot1/vlm', 0.0)
    for other in ('vlm', 'robot1/vlm2', '/robot1/vlm', 'robot11/vlm'):
        assert known.diagnosed(diagnostics({'storage': ERROR}, other), 1.0, WALL) == []
    assert known.last_word is None and known.worst() is None
    changes = known.diagnosed(diagnostics({'storage': OK, 'a: b': STALE}, 'robot1/vlm'), 2.0, WALL)
    assert [(c.part.name, c.part.level, c.before) for c in changes] == [
        ('storage', OK, None), ('a: b', STALE, None)]
    assert known.diagnosed(diagnostics({'storage': OK}, 'robot1/vlm'), 3.0, WALL) == []
    (change,) = known.diagnosed(diagnostics({'storage': WARN}, 'robot1/vlm'), 4.0, WALL)
    assert (change.part.level, change.before) == (WARN, OK)
    assert set(known.parts) == {'storage', 'a: b'}
    known.diagnosed(diagnostics({'storage': WARN}, 'robot1/vlm'), 8.0, WALL)
    assert set(known.parts) == {'storage'}  # the node names the other no more


def test_silence_is_noticed_and_ends():
    known = Known('/vlm', 100.0)
    assert known.silence(101.9) is None and known.silence(105.0) == 5.0
    for second in range(106, 110):
        known.diagnosed(diagnostics({'model': OK}), second, WALL)
    assert known.silence(111.9) is None and known.silence(112.2) == pytest.approx(3.2)
    assert 'no word for 3.2 s' in plain(screen(known, 112.2, 80, 24))[0]
    known.stepped(step(), 112.3)
    assert known.silence(112.4) is None and plain(screen(known, 112.4, 80, 24))[0].endswith('live')


def test_numbers_that_are_none():
    known, nan = Known('/vlm', 0.0), math.nan
    known.stepped(step(seconds=nan, read_seconds=math.inf, wait_seconds=-1.0, importance_kept=nan,
                       bytes_read=2**64 - 1), 1.0)
    message = answer(seconds=nan, finish_reason='')
    message.confidence = nan
    known.answered(message, 1.0, WALL)
    text = '\n'.join(plain(screen(known, 2.0, 80, 24)) + snapshot(known, 2.0, WALL))
    assert 'nan' not in text and 'inf' not in text and '?' in text


# how it looks

@pytest.mark.parametrize('width, height', SIZES)
def test_fits_the_terminal(width, height):
    for known in (busy(), busy('/a_long_namespace/of_a/robot/vlm'), Known('/vlm', 0.0)):
        for now in (10.0, 100.0):
            lines = screen(known, now, width, height)
            assert len(lines) == height
            assert max(line.cell_len for line in lines) <= width


def test_shows_what_matters():
    lines = plain(screen(busy(), 10.0, 80, 24))
    assert lines[0].startswith('/vlm  tabletop, greedy') and lines[0].endswith('ERROR live')
    text = '\n'.join(lines)
    for wanted in ('10.0 MB/s', 'p50 500 ms', '4 frames, 1024 of 4096 tokens', '25 %',
                   '1 of 4 waiting, 7 answered', 'sparsity 0.25', 'decode 500 ms',
                   'ERROR thermal', 'WARN  model', '* standing prompt', 'q quits'):
        assert wanted in text, wanted
    first = next(line for line in lines if 'question' in line)
    assert re.fullmatch(r'15:04:24\*  500 ms   90 %  question 19\? → the circle', first)


@pytest.mark.parametrize('width, height', [size for size in SIZES if size >= (30, 8)])
def test_small_terminals_keep_what_is_wrong(width, height):
    lines = plain(screen(busy(), 10.0, width, height))
    assert 'ERROR' in lines[0] and any(line.startswith('ERROR thermal') for line in lines)
    assert any('question 19' in line for line in lines)


def test_a_long_trouble_is_told_whole_where_there_is_room():
    known = Known('/vlm', 0.0)
    trouble = 'read error: ' + ' '.join(f'word{n}' for n in range(20))
    known.diagnosed(diagnostics({'storage': ERROR, 'model': OK}, message=trouble), 1.0, WALL)
    text = ' '.join(' '.join(plain(screen(known, 1.0, 80, 24))).split())
    assert trouble in text
    assert trouble in ' '.join(' '.join(snapshot(known, 1.0, WALL, 60)).split())


def test_six_cameras_in_a_small_terminal():
    known = Known('/vlm', 0.0)
    levels = {f'frames {n}': OK for n in range(12)} | {'frames 11': WARN}
    known.diagnosed(diagnostics(levels), 1.0, WALL)
    lines = plain(screen(known, 1.0, 80, 24))
    assert any(line.startswith('WARN  frames 11') for line in lines)
    assert any(re.match(r'OK +and \d+ more', line) for line in lines)


def test_the_snapshot_tells_every_value_and_answer():
    lines = snapshot(busy(), 10.0, WALL)
    assert lines[0].startswith('2026-01-02 15:04:05')
    assert lines.count('    stream tokens: 1024') == 5
    assert sum('question' in line for line in lines) == 20
    assert all('\x1b' not in line for line in lines)


def test_ascii_where_the_terminal_has_no_more():
    assert all(line.isascii() for line in plain(screen(busy(), 10.0, 100, 30, ASCII)))


texts = st.text(max_size=300)


@settings(max_examples=60, deadline=None)
@given(texts, texts, texts, st.sampled_from(SIZES), st.booleans())
def test_any_text_fits_and_steers_nothing(prompt, text, message, size, standing):
    known = Known('/vlm', 0.0)
    for number in range(3):
        known.answered(answer(prompt, text, standing=standing, cameras=[text, 'front'],
                              finish_reason=message), number, WALL)
    known.diagnosed(diagnostics({text: WARN, prompt: ERROR}, message=message), 3.0, WALL)
    known.stepped(step(model=prompt, policy=message, step=text), 3.0)
    for drawn in screen(known, 3.0, *size):
        assert cell_len(drawn.plain) <= size[0] and drawn.plain.isprintable()
    assert all(drawn.isprintable() for drawn in snapshot(known, 3.0, WALL))
    assert line(known.answers[0]).isprintable()


@given(texts.map(clean), st.integers(2, 40), st.integers(1, 10))
def test_wrapping_keeps_every_word_or_says_so(text, width, limit):
    lines = wrap(text, width, limit)
    assert len(lines) <= limit and all(cell_len(line) <= width for line in lines)
    if not (lines and lines[-1].endswith('…')):
        assert ''.join(''.join(lines).split()) == ''.join(text.split())


@given(texts.map(clean), st.integers(0, 40))
def test_cutting(text, width):
    assert text.startswith(cut(text, width)) and cell_len(cut(text, width)) <= width
    assert cell_len(shorten(text, width)) <= width


def test_cleaning():
    assert clean('a\n\tb \x1b[2J c') == 'a b \ufffd[2J c'
    assert clean('Tür 桌子 ≥ é') == 'Tür 桌子 ≥ é'
    assert clean('\u202egnp.exe') == '\ufffdgnp.exe' and clean('👩\u200d🚀\ufe0f') == '👩🚀'
    assert len(clean('word ' * 10**6)) < 5000


def test_sparkline():
    assert sparkline([0, 1, 4, 8], ' 12345678') == ' 148'
    assert sparkline([0, 0], ' 12') == '  ' and sparkline([], ' 1') == ''
    assert sparkline([1e-9, 1e9], ' 12') == '12'


def test_names():
    assert full_name('/robot1/vlm', None) == full_name('vlm', 'robot1') == '/robot1/vlm'
    assert full_name('vlm', '/') == '/vlm' and full_name('vlm', '/a/b/') == '/a/b/vlm'
    assert full_name('vlm', None) is None and full_name('', '/robot1') is None


# through DDS

def test_it_hears_and_only_listens(client):
    node, heard = client.node, []
    answers = node.create_publisher(Answer, '/fleet/vlm7/answer', RESULTS)
    steps = node.create_publisher(IoTelemetry, '/fleet/vlm7/telemetry', RESULTS)
    states = node.create_publisher(DiagnosticArray, '/diagnostics', DIAGNOSTICS)
    with Listener(heard.append) as listener:
        def found():
            listener.spin(0.05)
            return '/fleet/vlm7' in listener.candidates()
        until(found, what='discovery')
        known = listener.listen('/fleet/vlm7')
        until(lambda: listener.spin(0.05) or all(
            p.get_subscription_count() for p in (answers, steps)), what='subscriptions')
        answers.publish(answer('how many?', 'two', cameras=['front'], standing=True))
        for _ in range(50):
            steps.publish(step(bytes_read=1000, read_seconds=0.001, seconds=0.002))

        def all_heard():
            states.publish(diagnostics({'storage': WARN}, 'fleet/vlm7'))
            listener.spin(0.05)
            return len(heard) == 2 and known.read_speed() and sum(
                known.steps.latest(time.monotonic() + 1, 60)) == 50
        until(all_heard, 10.0, 'all messages')
        assert [a.text for a in known.answers] == ['two'] and known.worst() == WARN
        listener.look_around()
        assert known.offered is True
        name = listener._node.get_name()
        mine = dict(listener._node.get_subscriber_names_and_types_by_node(name, '/'))
        assert set(mine) == {'/fleet/vlm7/answer', '/fleet/vlm7/telemetry', '/diagnostics'}
        offered = listener._node.get_publisher_names_and_types_by_node(name, '/')
        assert {topic for topic, _ in offered} <= {'/parameter_events'}
        served = listener._node.get_service_names_and_types_by_node(name, '/')
        assert {topic for topic, _ in served} <= {f'/{name}/get_type_description'}
    for publisher in (answers, steps, states):
        node.destroy_publisher(publisher)


def test_coarse_answers_say_so():
    known = Known('/vlm', 0.0)
    for number, (reason, coarse, shown) in enumerate((
            ('stop', True, '[coarse]'), ('deadline', True, '[deadline, coarse]'),
            ('length', False, '[length]'), ('stop', False, ''))):
        event = known.answered(answer(finish_reason=reason, coarse=coarse), 1.0, WALL + number)
        assert line(event).endswith(f'"the circle" {shown}'.strip())
        assert shown in '\n'.join(plain(snapshot(known, 1.0, WALL)))
