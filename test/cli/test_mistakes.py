# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Ordinary mistakes, made with every sub-command: one line each, no traceback, no hang.

The commands are found in the parser itself, so a new one is tried without being entered here.
"""

import argparse
import io
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from commands import COMMAND, run
from PIL import Image

from neuron_chunk_ros.cli import arguments
from neuron_chunk_ros.cli.main import _parser, main

_PATHS = (arguments.path, arguments.path_text, arguments.target, arguments.output)
_NO_NUMBERS = ('', 'x', 'nan', 'inf', '-inf', '1e400', '-1', '9' * 30, '9' * 5000, '0x10', '٣x',
               '1,nan', '1,' + '9' * 30)
_LONGEST = 10  # seconds a refusal may take before it is a hang


def leaves(parser, words=()):
    """Yield (words, parser) of every command that does something."""
    commands = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not commands:
        yield words, parser
    for action in commands:
        for name, child in action.choices.items():
            yield from leaves(child, (*words, name))


LEAVES = {' '.join(words): (words, parser) for words, parser in leaves(_parser())}


def options(parser):
    return [a for a in parser._actions if a.nargs != 0 and not isinstance(
        a, (argparse._HelpAction, argparse._VersionAction))]


def takes_numbers(action):
    """Tell whether an option's values are numbers, whatever its type is called."""
    if action.type is None or action.type in _PATHS:
        return False
    for text in ('1', '0.5', '2'):
        try:
            value = action.type(text)
        except (ValueError, TypeError, argparse.ArgumentTypeError):
            continue
        first = value[0] if isinstance(value, tuple) and value else value
        return isinstance(first, (int, float))
    return False


NUMBERS = [(name, action) for name, (_, parser) in LEAVES.items() for action in options(parser)
           if takes_numbers(action)]
PATHS = [(name, action) for name, (_, parser) in LEAVES.items() for action in options(parser)
         if action.type in _PATHS]


# What options can work with, though it looks odd here.
TAKEN = {
    '--path': {'folder'},                            # to measure in
    '--out': {'folder'},                             # of benchmarks
    ('tabletop train', 'folder'): {'gone', 'folder'},  # makes it, or goes on there
}
# What else a command needs so that it comes to look at a path.
BESIDE = {'attention characterize bundle': ('--counts=2', '--images={place}/pictures'),
          'rewrite': ('--layout=separate',)}


def label(action):
    return action.option_strings[-1] if action.option_strings else action.dest


def names(pairs):
    return [f'{name} {label(action)}' for name, action in pairs]


@pytest.fixture(scope='module')
def place(tiny_models, tiny_bundles, tmp_path_factory):
    """Give a folder with one of each thing that a command may be given."""
    folder = tmp_path_factory.mktemp('things')
    (folder / 'pictures').mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for name in ('a.png', 'b.png', 'c.png'):
        Image.fromarray(noise).save(folder / 'pictures' / name)
    (folder / 'questions.jsonl').write_text(
        '{"prompt": "what?", "answer": "x", "images": ["pictures/a.png", "pictures/b.png"]}\n')
    (folder / 'mine.py').write_text('x = 1\n')
    os.mkfifo(folder / 'fifo')
    (folder / 'model').symlink_to(tiny_models['tiny-qwen2-vl'])
    (folder / 'bundle').symlink_to(tiny_bundles['tiny-qwen2-vl'])
    return folder


def good(place, action):
    """Return an argument that an option can work with."""
    if isinstance(action.choices, (list, tuple)):
        return action.choices[0]
    known = {
        'MODEL_DIR': place / 'model', 'BUNDLE_DIR': place / 'bundle', 'BUNDLE': place / 'bundle',
        'SOURCE_DIR': place / 'bundle', 'TARGET_DIR': place / 'out', 'OUT_DIR': place / 'out',
        'RUN_DIR': place / 'out', 'BAG': place / 'bag', 'PRESET': 'tiny-qwen2-vl',
        'QUESTION': 'what?', 'FOLDER': place / 'bundle',
    }
    if action.dest == 'images':
        return place / 'pictures'
    if action.dest == 'recipe':
        return 'int8'
    if action.dest in ('bundle', 'folder', 'model') and action.metavar in ('DIR', 'BUNDLE_DIR') \
            and not action.option_strings and action.help and 'must not exist' in action.help:
        return place / 'out'
    if action.metavar == 'DIR':
        return place / 'pictures'
    return known[action.metavar]


def command_line(place, name, changed=None, *more):
    """Return a command's arguments: what it must have, and what is tried."""
    words, parser = LEAVES[name]
    given, last = list(words), []
    for action in options(parser):
        needed = action.required or (not action.option_strings and action.nargs != '?')
        if action is changed[0] if changed else False:
            value = changed[1]
        elif needed or (not action.option_strings and changed and not changed[0].option_strings
                        and action.nargs == '?'):
            value = good(place, action)
        else:
            continue
        if action.option_strings:
            given.append(f'{label(action)}={value}')
        else:
            last.append(str(value))
    return [*map(str, given), *map(str, more), *(['--', *last] if last else [])]


class Hang(BaseException):
    """Not an error that a command might report."""


def tried(*command):
    """Run a command that must end soon."""
    def late(*_):
        raise Hang(command)
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(_LONGEST)
    try:
        return run(*command)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def one_line(done, *words):
    """Assert that a command said one thing, and which; usage may stand ahead of it."""
    assert done.returncode in (1, 2), (done.args, done.stdout, done.stderr)
    told = [line for line in done.stderr.splitlines() if 'error: ' in line]
    assert len(told) == 1 and 'Traceback' not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1] == told[0]
    if done.returncode == 1:
        others = [line for line in done.stderr.splitlines()[:-1]
                  if not line.startswith(('neuron-chunk: note: ', 'neuron-chunk: skipped '))]
        assert others == []
    for word in words:
        assert word in told[0], told[0]
    return told[0]


def test_the_tree_is_what_we_think():
    """The walk finds what there is: it can't pass by finding nothing."""
    assert {'ask', 'convert', 'bench read', 'attention show', 'tabletop draw'} <= set(LEAVES)
    assert len(LEAVES) >= 20 and len(NUMBERS) >= 40 and len(PATHS) >= 40


@pytest.mark.parametrize('name, action', NUMBERS, ids=names(NUMBERS))
def test_numbers_that_are_none(place, capsys, name, action):
    words, parser = LEAVES[name]
    for text in _NO_NUMBERS:
        line = command_line(place, name, (action, text))[len(words):]
        with pytest.raises(SystemExit) as ended:  # as main would, which takes longer
            parser.parse_args(line)
        assert ended.value.code == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert f'error: argument {label(action)}: ' in told and 'invalid' not in told


@pytest.mark.parametrize('name', LEAVES)
def test_every_option_says_what_it_takes(name):
    """No bare int, float or Path: these take nan, thousands of digits, and '~' as a name."""
    _, parser = LEAVES[name]
    for action in options(parser):
        assert action.type not in (int, float, Path), f'{name} {label(action)}'


@pytest.mark.parametrize('name', LEAVES)
def test_arguments_that_are_no_text(place, name):
    for text in ('wh\udcffat', '\ud800', 'a\0b'):
        one_line(tried(*LEAVES[name][0], text), 'is not valid UTF-8')


@pytest.mark.parametrize('name', LEAVES)
def test_unknown_options_and_commands(name):
    words, _ = LEAVES[name]
    assert tried(*words, '--no-such-option').returncode == 2
    if len(words) > 1:
        one_line(tried(*words[:-1], 'no-such-command'), 'no-such-command')


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    for name, action in PATHS:
        assert str(action.type('~/x')) == str(tmp_path / 'x'), f'{name} {label(action)}'


@pytest.mark.parametrize('name, action', PATHS, ids=names(PATHS))
def test_empty_paths(place, name, action):
    one_line(tried(*command_line(place, name, (action, ''))), 'path is empty')


def others():
    """Return (name, action, thing) of all that a path may be and shouldn't."""
    for name, action in PATHS:
        taken = TAKEN.get((name, label(action)), TAKEN.get(label(action), ()))
        if action.type is arguments.output:
            taken = {*taken, 'fifo', 'device', 'file'}  # these can be written to
        for thing in ('gone', 'fifo', 'device', 'file', 'folder'):
            if thing not in taken:
                yield name, action, thing


@pytest.mark.parametrize('name, action, thing', others(), ids=[
    f'{name} {label(action)} {thing}' for name, action, thing in others()])
def test_paths_to_something_else(place, tmp_path, name, action, thing):
    """What isn't there, a FIFO or an endless device in a file's place, a file in a folder's."""
    (tmp_path / 'file').write_bytes(b'\x07 neither this nor that')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'x').touch()
    path = {'gone': tmp_path / 'gone' / 'deeper' / 'thing.png', 'fifo': place / 'fifo',
            'device': '/dev/zero', 'file': tmp_path / 'file', 'folder': tmp_path / 'folder'}[thing]
    more = BESIDE.get(name, BESIDE.get(f'{name} {label(action)}', ()))
    done = tried(*command_line(place, name, (action, path), *(
        text.format(place=place) for text in more)))
    one_line(done, *([] if name == 'play' else [str(path.parent.parent) if thing == 'gone'
                                                else str(path)]))
    assert sorted(os.listdir(tmp_path)) == ['file', 'folder']


@pytest.mark.parametrize('name', sorted({name for name, action in PATHS
                                         if action.type is arguments.output}))
def test_output_in_an_inputs_place(place, tmp_path, name):
    """What a command reads, or writes besides, is not what it writes over."""
    _, parser = LEAVES[name]
    files = [a for a in options(parser)
             if a.type in _PATHS and (a.metavar or '').startswith('FILE')]
    for one in (a for a in files if a.type is arguments.output):
        for other in files:
            if other is one:
                continue
            path = tmp_path / 'thing.png'
            path.write_bytes(b'what was there')
            (tmp_path / 'link.png').unlink(missing_ok=True)
            (tmp_path / 'link.png').symlink_to(path)
            for twice in (path, tmp_path / 'link.png'):
                done = tried(*command_line(place, name, (one, path), f'{label(other)}={twice}'))
                one_line(done, 'given twice')
                assert path.read_bytes() == b'what was there'


def test_a_deadline_that_is_over_at_once(place):
    for deadline in ('0.001', '1e-9'):
        done = tried('ask', place / 'bundle', 'what?', '--deadline', deadline)
        assert done.returncode == 0 and '[deadline] 0 tokens' in done.stdout, done.stderr


@pytest.mark.parametrize('command', [
    ('ask', '{}/bundle', 'what?'), ('trace', '{}/bundle', '--out={}/trace.json'),
    ('calibrate', '{}/bundle', '--images={}/pictures'),
    ('attention', 'characterize', '{}/bundle', '--images={}/pictures', '--counts=2'),
    ('compress', '{}/model', '{}/out', '--recipe=int8', '--images={}/pictures'),
    ('compress', '{}/model', '{}/out', '--recipe=fixed-point', '--images={}/pictures')])
def test_devices_that_cannot_compute(place, command):
    for device in ('meta', 'nonsense', 'cuda:99', 'vulkan', '', 'cpu:x'):
        done = tried(*(part.format(place) for part in command), f'--device={device}')
        one_line(done, device, 'device')


@pytest.mark.parametrize('moment', [0.0, 0.3, 1.0, 2.0, 4.0])
@pytest.mark.slow
def test_ctrl_c_at_any_moment(place, moment):
    """130 and not a word, or the answer where it was there sooner."""
    process = subprocess.Popen(
        [*COMMAND, 'ask', str(place / 'bundle'), 'what?', '--max-new-tokens', '4000'],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        # its first act of its own: before that, Python itself is told
        while process.poll() is None and not began(process.pid):
            time.sleep(0.005)
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (130, '') or (process.returncode == 0 and out), err


def began(pid):
    """Tell whether the process handles SIGTERM, which is what main begins with."""
    caught = next(line for line in Path(f'/proc/{pid}/status').read_text().splitlines()
                  if line.startswith('SigCgt'))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize('closing', ['>&-', '2>&-', '>&- 2>&- <&-', '| true', '2>&1 | head -1'])
def test_closed_outputs(place, closing):
    done = subprocess.run(f'{shlex.join(COMMAND)} inspect {place}/bundle {closing}', shell=True,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ''


def test_full_output(place):
    for command in (('inspect', place / 'bundle'), ('--help',)):
        with open('/dev/full', 'w') as full:
            done = subprocess.run([*COMMAND, *map(str, command)], stdout=full,
                                  stderr=subprocess.PIPE, text=True, timeout=60)
        told = done.returncode, done.stderr
        # argparse itself may let help go, where nothing is buffered
        full = 'neuron-chunk: error: No space left on device, make room and begin again\n'
        assert told == (1, full) or (command == ('--help',) and told == (0, '')), told


def test_what_a_terminal_cannot_show(monkeypatch, tmp_path):
    """A name's letters in a terminal that knows ASCII alone, and the error about it."""
    shown = [io.TextIOWrapper(io.BytesIO(), 'ascii') for _ in range(2)]
    monkeypatch.setattr('sys.stdout', shown[0])
    monkeypatch.setattr('sys.stderr', shown[1])
    assert main(['synthesize', 'tiny-qwen2-vl', str(tmp_path / 'wé')]) == 0
    assert main(['inspect', str(tmp_path / 'wé')]) == 1
    for stream in shown:
        stream.flush()
        assert b'w\\xe9' in stream.buffer.getvalue()
