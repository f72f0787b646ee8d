# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What frame appending is worth: measured on the model that ships, few times over."""

import csv
import json
import math
import sys

import pytest

from neuron_chunk_ros.bench.report import Table
from neuron_chunk_ros.bench.stream import measure as stream
from neuron_chunk_ros.bench.stream import report as stream_report
from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.errors import BenchError
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.tabletop import shipped

FRAMES = (1, 2)
REPEATS = 2


@pytest.fixture(scope='module')
def options():
    return stream.StreamOptions(shipped.bundle_dir(), frames=FRAMES, repeats=REPEATS,
                                deadline_ms=20, new_tokens=3)


@pytest.fixture(scope='module')
def measured(options):
    return stream.measure(options, lambda *_: None)


def by_case(measured):
    return {(one.way.label, one.frames, one.mode): one for one in measured.asked}


def test_everything_wanted_is_measured_and_no_warming_up(options, measured):
    ways = [way.label for way in options.ways()]
    assert ways == ['dense', 'optimal, 50%', 'optimal, 20 ms']
    asked = [(one.way.label, one.frames, one.mode) for one in measured.asked]
    assert sorted(asked) == sorted((way, frames, mode) for way in ways for frames in FRAMES
                                   for mode in stream.MODES for _ in range(REPEATS))
    appended = [(one.way.label, one.held) for one in measured.appended]
    assert sorted(appended) == sorted((way, held) for way in ways for held in (0, 1, 2)
                                      for _ in range(REPEATS))


def test_times_enclose_what_telemetry_knows(measured):
    for one in measured.asked:
        timing, steps = one.answer.timing, one.answer.steps
        assert one.seconds >= timing.total >= timing.preprocess + timing.vision + sum(
            step.seconds for step in steps) - 1e-6
        assert one.seconds >= one.first_seconds
        assert one.first_seconds >= timing.preprocess + timing.vision + steps[0].seconds
    # A stream's pictures went through the vision tower when they came.
    looked = {mode: sum(one.answer.timing.vision for one in measured.asked if one.mode == mode)
              for mode in stream.MODES}
    assert looked['stream'] < looked['snapshot']
    for one in measured.appended:
        assert [bill.step for bill in one.bills] == ['prefill', 'append'][one.held > 0:]
        assert one.seconds >= sum(bill.seconds for bill in one.bills)


def test_a_question_about_a_stream_has_fewer_tokens_but_reads_no_less(measured):
    cases = by_case(measured)
    taken = {one.held: sum(bill.tokens for bill in one.bills)
             for one in measured.appended if one.way.label == 'dense'}
    bundle = Bundle.open(shipped.bundle_dir())
    flash = bundle.decoder_bytes

    def decoder(step):
        """Return what was read without rows of the embedding table."""
        words = (step.bytes_used - flash) % bundle.embedding.row_bytes
        assert words == 0 and step.bytes_used - flash <= bundle.embedding.nbytes
        return min(step.bytes_used, flash)
    for way in ('dense', 'optimal, 50%'):
        for frames in FRAMES:
            ours, theirs = (cases[way, frames, mode].answer for mode in stream.MODES)
            assert ours.steps[0].tokens + sum(taken[held] for held in range(frames)) == (
                theirs.steps[0].tokens)
            # Text skips nothing, so a first pass reads the whole decoder, however short it is.
            assert decoder(ours.steps[0]) == decoder(theirs.steps[0]) == flash
        if way == 'dense':
            assert [*map(decoder, ours.steps)] == [flash] * len(ours.steps)
    appends = {way: [one.bills[-1] for one in measured.appended if one.way.label == way]
               for way in ('dense', 'optimal, 50%')}
    assert {*map(decoder, appends['dense'])} == {flash}
    # None at all is left out once a session knows that skipping isn't worth it here.
    assert max(bill.rows_selected for bill in appends['optimal, 50%']) <= (
        appends['dense'][0].rows_selected)


def test_records_hold_what_was_measured(options, measured):
    report = stream_report.report(options, measured, {'command': '', 'machine': {}})
    for record in report.records['questions']:
        mine = [one for one in measured.asked if (one.way.label, one.frames, one.mode) == (
            record['way'], record['frames'], record['mode'])]
        bills = [one.answer.io for one in mine]
        assert record['first_low_ms'] <= record['first_ms'] <= record['first_high_ms']
        assert record['answer_ms'] == pytest.approx(
            1e3 * sum(one.seconds for one in mine) / REPEATS)
        assert record['answer_mb'] == pytest.approx(
            sum(bill.bytes_read for bill in bills) / REPEATS / 1e6)
        assert record['mb_s'] == pytest.approx(
            sum(bill.bytes_read / 1e6 / bill.read_seconds for bill in bills) / REPEATS)
        assert record['first_ms'] >= record['vision_ms'] + record['prefill_ms']
    for record in report.records['appends']:
        mine = [one for one in measured.appended
                if (one.way.label, one.held) == (record['way'], record['held'])]
        assert record['mb'] == pytest.approx(
            sum(bill.bytes_read for one in mine for bill in one.bills) / REPEATS / 1e6)
        assert record['all_ms'] == pytest.approx(record['vision_ms'] + record['decoder_ms'])
        assert record['leaves'] == ('yes' if record['held'] == max(FRAMES) else 'no')
    questions = {(r['way'], r['frames'], r['mode']): r for r in report.records['questions']}
    for record in report.records['speedups']:
        ours, theirs = (questions[record['way'], record['frames'], mode]
                        for mode in stream.MODES)
        assert record['first'] == pytest.approx(theirs['first_ms'] / ours['first_ms'])
        if record['answer'] is not None:
            assert record['answer'] == pytest.approx(theirs['answer_ms'] / ours['answer_ms'])
        if ours['words'] != theirs['words']:
            assert record['answer'] is None
    totals = [record for record in report.records['totals'] if record['way'] == 'dense']
    for record in totals:
        assert record['stream_mb'] > record['snapshot_mb']  # the frame was read for, too
        assert record['times'] == pytest.approx(
            record['snapshot_ms'] / record['stream_ms'], rel=1e-6)
    assert len(totals) == len(FRAMES)
    assert all(math.isfinite(goal['reached']) for goal in report.summary)
    assert all(isinstance(table, Table) and table.text() for table in report.tables)


def test_command_writes_json_and_csv_and_keeps_the_bundle_s_place_to_itself(
        tmp_path, capsys, monkeypatch):
    bundle, found, out = str(shipped.bundle_dir()), tmp_path / 'found.json', tmp_path / 'out'
    arguments = ['bench', 'stream', bundle, '--frames', '1', '--policies', 'optimal',
                 '--sparsity', '0.4', '--repeats', '1', '--json', str(found), '--out', str(out)]
    monkeypatch.setattr(sys, 'argv', ['neuron-chunk', *arguments])
    assert main(arguments) == 0
    text, shown = found.read_text(), capsys.readouterr().out
    value = json.loads(text, parse_constant=pytest.fail)
    assert value['benchmark'] == 'stream' and value['command'] == (
        'neuron-chunk bench stream BUNDLE --frames 1 --policies optimal --sparsity 0.4 '
        '--repeats 1 --json FILE --out DIR')
    assert bundle not in text and str(tmp_path) not in text
    assert {'device', 'kernel', 'torch'} <= set(value['machine'])
    assert 'sooner a stream has them' in shown and 'Appending a frame' in shown
    for kind in ('questions', 'appends', 'speedups', 'totals'):
        with open(out / f'stream-{kind}.csv') as file:
            rows = list(csv.DictReader(file))
        assert [set(row) for row in rows] == [set(record) for record in value[kind]]
        assert rows[0]['way'] == 'optimal, 40%'


@pytest.mark.parametrize('arguments, message', [
    (['/nonexistent'], '/nonexistent'),
    (['tabletop', '--policies', 'dense,best'], "unknown policy 'best'"),
    (['tabletop', '--policies', 'dense', '--deadline-ms', '50'], 'keeps no deadline'),
    (['tabletop', '--json', '/nonexistent/x.json'], '/nonexistent: no such folder'),
])
def test_bad_arguments_get_one_line(capsys, arguments, message):
    assert main(['bench', 'stream', *arguments, '--quick']) == 1
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


@pytest.mark.parametrize('arguments', [[], ['tabletop', '--frames', '0,1'],
                                       ['tabletop', '--frames', 'two'],
                                       ['tabletop', '--sparsity', '1'],
                                       ['tabletop', '--deadline-ms', '-5'],
                                       ['tabletop', '--repeats', '0']])
def test_bad_usage(arguments):
    with pytest.raises(SystemExit) as exit_status:
        main(['bench', 'stream', *arguments])
    assert exit_status.value.code == 2


def test_more_frames_than_fit_are_refused(options):
    small = stream.StreamOptions(options.bundle, frames=(200,), policies=('dense',), repeats=1)
    with pytest.raises(BenchError, match='--frames'):
        stream.measure(small, lambda *_: None)
