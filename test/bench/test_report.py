# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Reports: what is written, and where."""

import csv
import json

import numpy as np
import pytest

from neuron_chunk_ros.bench import goals
from neuron_chunk_ros.bench.report import Column, Report, Table, replace_part
from neuron_chunk_ros.bench.statistics import Interval

RECORDS = [{'name': 'long name', 'value': 1.23456789, 'count': 3},
           {'name': 'b', 'value': float('nan'), 'count': 12}]
TABLE = Table('Title', (Column('name', 'name'), Column('value', 'value', '{:.2f}x'),
                        Column('count', 'count')), RECORDS)


def report():
    return Report('read', {'command': 'neuron-chunk bench read', 'machine': {'kernel': 'Linux'}},
                  {'things': RECORDS}, [], [TABLE])


def test_text_lines_up():
    assert TABLE.text().splitlines() == [
        'Title', 'name       value  count', 'long name  1.23x      3',
        'b              -     12']


def test_markdown():
    assert TABLE.markdown().splitlines() == [
        '**Title**', '', '| name | value | count |', '| --- | --- | --- |',
        '| long name | 1.23x | 3 |', '| b | - | 12 |']


def test_json_has_plain_values(tmp_path):
    made = report()
    made.records['things'] = [{'a': np.float64(1.23456789), 'b': np.int64(3), 'c': np.nan,
                               'd': True, 'e': (1, None), 'f': np.bool_(True)}]
    made.write_json(tmp_path / 'x.json')
    found = json.loads((tmp_path / 'x.json').read_text(), parse_constant=pytest.fail)
    assert found['things'] == [
        {'a': 1.23457, 'b': 3, 'c': None, 'd': True, 'e': [1, None], 'f': True}]
    assert found['benchmark'] == 'read' and found['machine'] == {'kernel': 'Linux'}


def test_files_and_the_document_beside_them(tmp_path):
    document = tmp_path / 'BENCHMARKS.md'
    document.write_text('before\n<!-- read: written by the tool -->\nold\n<!-- read: end -->\n'
                        '<!-- select: written by the tool -->\nkept\n<!-- select: end -->\n')
    written = report().write_files(tmp_path / 'benchmarks')
    assert written == [tmp_path / 'benchmarks' / 'read-things.csv', document]
    rows = list(csv.DictReader(open(written[0])))
    assert rows == [{'name': 'long name', 'value': '1.23457', 'count': '3'},
                    {'name': 'b', 'value': '', 'count': '12'}]
    text = document.read_text()
    assert text.startswith('before\n<!-- read: written by the tool -->\n\n`neuron-chunk bench ')
    assert '| long name | 1.23x | 3 |' in text and 'old' not in text and 'kept' in text
    again = report()
    again.write_files(tmp_path / 'benchmarks')
    assert document.read_text() == text


def test_a_document_without_the_marks_is_left_alone(tmp_path):
    document = tmp_path / 'x.md'
    for text in ('nothing', '<!-- read: written by the tool --> never closed'):
        document.write_text(text)
        assert not replace_part(document, 'read', 'new')
        assert document.read_text() == text


def test_goals_say_whether_they_are_met():
    assert goals.goal('a', Interval(4.1, 3.9, 4.3), at_least=4, unit='x')['met'] == 'yes'
    assert goals.goal('a', Interval(3.9, 3.8, 4.3), at_least=4)['met'] == 'NO'
    assert goals.goal('a', 4.9, at_most=5)['met'] == 'yes'
    assert goals.goal('a', float('nan'), at_least=1)['met'] == 'NO'
    assert goals.goal('a', 3)['met'] == ''
