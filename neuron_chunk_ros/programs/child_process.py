# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A ROS node as a child process: started, watched, and ended whatever happens."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

_PR_SET_PDEATHSIG = 1


def _end_with(parent: int):
    # Even a killed parent leaves no node behind; one killed before this line included.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Handle what comes within afterwards.

    While it forks Python swallows what a handler raises, and just after it the child, known to
    nobody yet, would be left behind.
    """
    numbers = signal.SIGINT, signal.SIGTERM
    if threading.current_thread() is not threading.main_thread():  # no handler runs here
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number))
              for number in numbers if callable(signal.getsignal(number))}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


class ChildProcess:
    """Runs `python -m MODULE --ros-args ARGUMENTS`; what it prints is kept for the day it fails.

    A context manager: leaving it ends the process, first with SIGINT, then harder.
    """

    def __init__(self, module: str, ros_arguments: list[str], environment: dict[str, str]):
        self.module = module
        self._log = tempfile.TemporaryFile()
        # Its own session: Ctrl-C reaches the parent alone, which then ends its children in order.
        self._process = None
        try:
            with _signals_wait():
                self._process = subprocess.Popen(
                    [sys.executable, '-m', module, '--ros-args', *ros_arguments],
                    env={**os.environ, **environment, 'PYTHONUNBUFFERED': '1'},
                    stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
                    start_new_session=True, preexec_fn=partial(_end_with, os.getpid()))
        except BaseException:
            if self._process is not None:
                self.end()
            raise

    def __enter__(self) -> 'ChildProcess':
        """Return the running process."""
        return self

    def __exit__(self, *_):
        """End the process."""
        self.end()
        self._log.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """Return what it has printed so far."""
        return os.pread(self._log.fileno(), 1 << 24, 0).decode(errors='replace')

    def end(self, signal_number: int = signal.SIGINT, timeout: float = 10.0) -> int:
        """End the process, by force where it doesn't end in time [s]; return its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal_number)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()
