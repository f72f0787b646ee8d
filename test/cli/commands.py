# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs `neuron-chunk`: in this process, or in one of its own, which takes seconds to start."""

import contextlib
import io
import os
import signal
import subprocess
import sys

from neuron_chunk_ros.cli.main import main

# As the installed script does it. After `python -m`, Python itself dies of SIGINT where a Ctrl-C
# came while it ran code made from text, as named tuples are, whatever was returned.
COMMAND = [sys.executable, '-c', 'from neuron_chunk_ros.cli.main import command; command()']


def run(*arguments):
    """Run a command here; what it prints and returns is like a process's."""
    arguments = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    except SystemExit as usage:
        code = usage.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def run_apart(*arguments, **options):
    """Run a command as a user does, in a process of its own."""
    # one thread: tiny products gain nothing from more, which wait for each other when it is busy
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True,
                          timeout=120, env={**os.environ, 'OMP_NUM_THREADS': '1'}, **options)


def line_of(done):
    """Return the one line of a command that must have failed."""
    assert done.returncode == 1 and done.stdout == ''
    assert done.stderr.startswith('neuron-chunk: error: ') and done.stderr.count('\n') == 1
    return done.stderr


def refused(*arguments):
    """Run a command that must fail; return its one line."""
    return line_of(run(*arguments))
