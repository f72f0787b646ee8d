# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk monitor: on a terminal, as plain lines, as a snapshot, and its one-line errors."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

from neuron_chunk_ros.cli.main import main
from neuron_chunk_ros.programs.private_domain import private_environment

rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.signals import SignalHandlerOptions  # noqa: E402

from neuron_chunk_interfaces.msg import Answer, IoTelemetry, Timing  # noqa: E402
from neuron_chunk_ros.node.qos import DIAGNOSTICS, RESULTS  # noqa: E402

PATIENCE = 30.0
MONITOR = [sys.executable, '-m', 'neuron_chunk_ros.cli.main', 'monitor']


class Robot:
    """Publishes as vlm nodes do, ten times a second; `level` is that of /vlm's storage.

    /quiet/vlm has nothing to say but that it is well; /robot1/deaf says nothing at all.
    """

    def __init__(self):
        self.level, self.text, self.speaks = DiagnosticStatus.OK, 'two circles', True
        self._context, self._ending = Context(), False
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('robot', context=self._context)
        self._states = self._node.create_publisher(DiagnosticArray, '/diagnostics', DIAGNOSTICS)
        self._answers = self._node.create_publisher(Answer, '/vlm/answer', RESULTS)
        self._steps = self._node.create_publisher(IoTelemetry, '/vlm/telemetry', RESULTS)
        self._others = [self._node.create_publisher(Answer, f'/{name}/answer', RESULTS)
                        for name in ('quiet/vlm', 'robot1/deaf')]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._ending:
            if self.speaks:
                io = IoTelemetry(step='append', seconds=0.05, bytes_read=10**6, rows_total=4,
                                 rows_selected=3, importance_kept=0.9, policy='greedy',
                                 model='tabletop')
                self._steps.publish(io)
                self._answers.publish(Answer(
                    prompt='how many?', text=self.text, confidence=0.75, finish_reason='stop',
                    timing=Timing(total=0.25), io=io, model='tabletop'))
                self._states.publish(DiagnosticArray(status=[DiagnosticStatus(
                    name='vlm: storage', level=self.level, message='io_uring, direct I/O')]))
            self._states.publish(DiagnosticArray(status=[DiagnosticStatus(
                name='quiet/vlm: model', level=DiagnosticStatus.OK, message='idle')]))
            time.sleep(0.1)

    def close(self):
        self._ending = True
        self._thread.join(5.0)
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture(scope='module')
def robot():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in private_environment().items():
            patch.setenv(name, value)
        robot = Robot()
        yield robot
        robot.close()


@pytest.fixture(autouse=True)
def _well(robot):
    yield
    robot.level, robot.text, robot.speaks = DiagnosticStatus.OK, 'two circles', True


class Terminal:
    """A program on a pseudo-terminal of its own, and what that shows."""

    def __init__(self, command, width=80, height=24, **environment):
        self._master, self._slave = pty.openpty()
        self.resize(width, height)
        self.before = termios.tcgetattr(self._slave)
        self.output = ''
        self.process = subprocess.Popen(
            command, stdin=self._slave, stdout=self._slave, stderr=self._slave,
            start_new_session=True, env={**os.environ, 'TERM': 'xterm-256color', **environment},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def resize(self, width, height):
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack('HHHH', height, width, 0, 0))

    def read(self, duration):
        """Take in what is written within so many seconds; return how much that was."""
        found = b''
        end = time.monotonic() + duration
        while (left := end - time.monotonic()) > 0:
            if select.select([self._master], [], [], left)[0]:
                found += os.read(self._master, 65536)
        self.output += found.decode('utf-8', 'replace')
        return len(found)

    def wait_for(self, condition, what):
        limit = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < limit, f'waited for {what}; seen: {self.output[-3000:]!r}'
            self.read(0.05)

    def wait_to_see(self, text):
        self.wait_for(lambda: any(text in line for line in self.lines()), text)

    def wait_to_end(self):
        self.wait_for(lambda: self.process.poll() is not None, 'the end')
        self.read(0.1)
        return self.process.returncode

    def press(self, keys):
        os.write(self._master, keys)

    def lines(self):
        """Return the lines as drawn since the screen was last cleared."""
        rows = {}
        pieces = re.split(r'\x1b\[(\d+);1H', self.output.rpartition('\x1b[2J')[2])
        for row, text in zip(pieces[1::2], pieces[2::2], strict=True):
            rows[int(row)] = re.sub(r'\x1b\[[\d;?]*[a-zA-Z]', '', text)
        return [rows[row] for row in sorted(rows)]

    def is_given_back(self):
        """Whether modes, cursor, line wrapping and main screen are as they were."""
        modes = {mode: self.output.rfind(f'\x1b[?{mode}h') > self.output.rfind(f'\x1b[?{mode}l')
                 for mode in (25, 7)}
        return (all(modes.values()) and termios.tcgetattr(self._slave) == self.before
                and self.output.rfind('\x1b[?1049l') > self.output.rfind('\x1b[?1049h') >= 0)


def test_live_view_and_its_end(robot):
    with Terminal([*MONITOR, '--node', '/vlm']) as terminal:
        terminal.wait_to_see('how many? → two circles')
        terminal.wait_to_see('io_uring, direct I/O')
        terminal.wait_to_see('live')
        terminal.wait_to_see('MB/s')
        assert not termios.tcgetattr(terminal._slave)[3] & (termios.ECHO | termios.ICANON)
        assert len(terminal.lines()) == 24

        robot.level, robot.text = DiagnosticStatus.ERROR, 'no idea'
        terminal.wait_to_see('ERROR storage')
        terminal.wait_to_see('no idea')

        terminal.resize(50, 14)
        terminal.wait_for(lambda: len(terminal.lines()) == 14, 'the new size')
        assert all(len(line) <= 50 for line in terminal.lines())
        terminal.wait_to_see('ERROR storage')

        robot.speaks = False
        terminal.wait_to_see('no word for')
        robot.speaks = True
        terminal.wait_for(lambda: terminal.lines()[0].endswith('live'), 'word')

        assert not terminal.is_given_back()
        terminal.press(b'q')
        assert terminal.wait_to_end() == 0
        assert terminal.is_given_back()


def test_every_signal_gives_the_terminal_back(robot):
    ends = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGQUIT: 131, b'\x03': 130}
    with contextlib.ExitStack() as stack:
        terminals = {end: stack.enter_context(Terminal([*MONITOR, '--node', '/vlm']))
                     for end in ends}
        for end, terminal in terminals.items():
            terminal.wait_to_see('two circles')
            if isinstance(end, bytes):
                terminal.press(end)
            else:
                terminal.process.send_signal(end)
        for end, terminal in terminals.items():
            assert terminal.wait_to_end() == ends[end]
            assert terminal.is_given_back(), end


def test_an_exception_gives_the_terminal_back_before_it_is_told():
    program = ('import os\nfrom neuron_chunk_ros.programs.monitor.screen import Screen\n'
               'with Screen() as screen:\n'
               '    os.write(2, b"a library warns")\n'
               '    raise RuntimeError("broken")\n')
    with Terminal([sys.executable, '-c', program]) as terminal:
        assert terminal.wait_to_end() == 1
        assert terminal.is_given_back()
        told = terminal.output.rpartition('\x1b[?1049l')[2]
        assert 'a library warns' in told and 'RuntimeError: broken' in told


@pytest.mark.slow
def test_poor_terminals_and_lines(robot):
    colour = re.compile(r'\x1b\[[\d;]*[34]\d')
    command = [*MONITOR, '--node', '/vlm']
    with (Terminal(command) as rich, Terminal(command, NO_COLOR='1') as black_and_white,
          Terminal([*MONITOR, '--node', '/quiet/vlm']) as quiet,
          Terminal(command, TERM='dumb') as dumb):
        rich.wait_to_see('two circles')
        assert colour.search(rich.output)
        black_and_white.wait_to_see('two circles')
        assert not colour.search(black_and_white.output)
        dumb.wait_for(lambda: '-> "two circles"' in dumb.output, 'an answer')
        assert '\x1b' not in dumb.output
        dumb.press(b'\x03')
        assert dumb.wait_to_end() == 130
        quiet.wait_to_see('idle')
        quiet.wait_to_see('live')
        quiet.read(0.5)
        assert quiet.read(2.5) == 0, 'nothing had changed'


def test_plain_lines_into_a_pipe(robot):
    with subprocess.Popen([*MONITOR, '--node', '/vlm'], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, 'PYTHONIOENCODING': 'ascii'}) as process:
        robot.text = 'zwölf'

        def read_until(pattern):
            for line in process.stdout:
                assert line.isascii()
                if re.search(pattern, line):
                    return line
        stamp = r'^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d '
        assert read_until(stamp + r'answer in 250 ms, confidence 75 %: "how many\?" -> "zw\?lf"')
        robot.level = DiagnosticStatus.WARN
        assert read_until(stamp + r'WARN storage: io_uring, direct I/O \(was OK\)')
        robot.speaks = False
        assert read_until(stamp + r'no word from /vlm for \d')
        robot.speaks = True
        assert read_until(stamp + '/vlm is heard')
        process.terminate()
        process.stdout.read()
        assert process.wait(PATIENCE) == 143


def test_the_reader_of_the_pipe_may_leave(robot):
    with subprocess.Popen([*MONITOR, '--node', '/vlm'], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 1
        assert process.stderr.read() == b''


def test_a_snapshot_and_errors_of_one_line(robot):
    cases = {
        ('--node', 'vlm', '--namespace', '/', '--once', '0.5'): None,
        ('--once',): 'several nodes answer: /quiet/vlm, /robot1/deaf, /vlm; choose one with '
                     '--node /quiet/vlm',
        ('--node', 'vlm'): 'several nodes answer: /quiet/vlm, /vlm; choose one with',
        ('--once', '0.2', '--namespace', 'robot1'):
            '/robot1/deaf: nothing heard within 5 s: is it running, and is ROS_DOMAIN_ID the ',
        ('--node', 'nix', '--once', '0.1'): "no node 'nix' answers in ROS domain",
        ('--node', '/a b'): "'/a b' can't be a node's name",
    }
    processes = {options: subprocess.Popen([*MONITOR, *options], stdout=subprocess.PIPE,
                                           stderr=subprocess.PIPE, text=True)
                 for options in cases}
    patient = subprocess.Popen([*MONITOR, '--namespace', 'nowhere'], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    for options, message in cases.items():
        out, errors = processes[options].communicate(timeout=PATIENCE)
        if message is not None:
            assert processes[options].returncode == 1 and not out
            assert len(errors.splitlines()) == 1
            assert errors.startswith(f'neuron-chunk: error: {message}')
            continue
        assert processes[options].returncode == 0 and not errors and '\x1b' not in out
        for wanted in ('/vlm  tabletop, greedy', 'live', 'importance 90 %, rows 75 %',
                       'OK    storage io_uring, direct I/O', 'how many? → two circles'):
            assert wanted in out, wanted
    told = patient.stderr.readline()
    assert told.startswith('no vlm node in /nowhere answers in ROS domain ')
    patient.send_signal(signal.SIGINT)
    assert patient.communicate(timeout=PATIENCE) == ('', '') and patient.returncode == 130


@pytest.mark.parametrize('text', ['x', '0', '-1', 'nan', 'inf'])
def test_seconds_are_checked(capsys, text):
    with pytest.raises(SystemExit):
        main(['monitor', f'--once={text}'])
    assert f"'{text}': want a number above 0" in capsys.readouterr().err
