# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs cases in a process of its own and says which one it was that ended, held or bloated it."""

import argparse
import contextlib
import faulthandler
import itertools
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from neuron_chunk_ros.node.process_memory import resident_mib

MOST_MB = 512  # what a run of cases may take beyond what its process took before them
MOST_FINDINGS = 10
_MOST_SECONDS = 4 * 3600.0
_READY_SECONDS = 300.0  # for what a case makes before its first call
_ROOM = 1 << 16
_FOLDERS = 'NEURON_CHUNK_FUZZ_FOLDERS'
# Where cases may write: on a drive first, then in memory; emptied by the watcher at the end.
FOLDERS = [name for name in os.environ.get(_FOLDERS, '').split(os.pathsep) if name]


class Finding(Exception):
    """What a case did that it may not do."""


class Board:
    """Memory that a process shares with its watcher: the case and the call under way."""

    def __init__(self, path):
        with open(path, 'r+b') as file:
            self._memory = mmap.mmap(file.fileno(), _ROOM)

    def write(self, case, text, slowest=(0.0, 0)):
        raw = f'{json.dumps([case, slowest])}\n{text}'.encode('utf-8', 'backslashreplace')
        raw = raw[:_ROOM - 1]
        self._memory[:len(raw) + 1] = raw + b'\0'

    def read(self):
        first, _, text = bytes(self._memory).split(b'\0', 1)[0].decode(
            'utf-8', 'replace').partition('\n')
        case, slowest = json.loads(first)
        return {'next': case + 1, 'slowest': slowest}, text


class Watch:
    """What a case announces its calls to; a call that takes too long ends the process."""

    def __init__(self, board, patience):
        self._board, self._patience, self.case = board, patience, 0
        self._begun, self.slowest = None, (0.0, 0)  # of the slowest: seconds, case

    def __call__(self, text, bound=None):
        """Say what is called; `bound` [s]: of work that has one of its own."""
        self.rest()
        self._board.write(self.case, text, self.slowest)
        faulthandler.dump_traceback_later(bound or self._patience, exit=True)
        self._begun = None if bound else time.monotonic()

    def rest(self):
        """Nothing is called."""
        faulthandler.cancel_dump_traceback_later()
        begun, self._begun = self._begun, None
        if begun is not None:
            self.slowest = max(self.slowest, (time.monotonic() - begun, self.case))


def _work(run_case, options):
    """Run cases until the time is over, or all are done; returns how it went."""
    watch = Watch(Board(options.board), options.patience)
    begun = end = None
    for watch.case in itertools.count(options.case):
        if begun is None or watch.case == options.case + 50:
            _, begun = resident_mib()  # anew once what is made on first use has been made
        watch('made ready', _READY_SECONDS)
        try:
            run_case(np.random.default_rng([options.seed, watch.case]), watch)
        finally:
            watch.rest()
        grown = resident_mib()[1] - begun
        if grown > MOST_MB:
            raise Finding(f'{grown:.0f} MB more than before, {MOST_MB} are allowed')
        end = end or time.monotonic() + options.seconds
        if options.once or watch.case + 1 == options.cases or (
                not options.cases and time.monotonic() > end):
            return {'next': watch.case + 1, 'slowest': watch.slowest, 'grown': grown}


def _watched(options, case, seconds, patience, once):
    """Run cases in a process; returns (how it went, the call, what was found of it or '')."""
    with tempfile.NamedTemporaryFile(prefix='fuzz') as file:
        file.truncate(_ROOM)
        Board(file.name).write(case, 'the start')
        command = [sys.executable, sys.argv[0], '--seed', str(options.seed), '--case', str(case),
                   '--seconds', str(seconds), '--cases', str(options.cases),
                   '--patience', str(patience), '--board', file.name]
        try:
            done = subprocess.run(
                command + ['--once'] * once, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                errors='replace', text=True,
                timeout=_MOST_SECONDS if options.cases else seconds + 300,
                env=os.environ | {_FOLDERS: os.pathsep.join(options.folders)})
        except subprocess.TimeoutExpired:
            return *Board(file.name).read(), 'the process did not end'
        went, call = Board(file.name).read()
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1]), call, ''
    ended = (signal.Signals(-done.returncode).name if done.returncode < 0
             else f'exit status {done.returncode}')
    said = done.stdout
    if len(said) > 8000:
        # Of a traceback of threads the beginning counts, of an exception the end.
        late = re.search(r'^Timeout \(', said, re.MULTILINE)
        said = said[late.start():][:8000] if late else said[-8000:]
    return went, call, f'{ended}\n{said}'


def main(run_case, about):
    """Run `run_case(rng, watch)` as the command line says; end with 0 where nothing was found.

    rng is one of the seed and the case's number, watch(text) names a call before it is made.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument('--seconds', type=float, default=60)
    parser.add_argument('--cases', type=int, default=0, help='so many, however long they take')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--case', type=int, default=0, help='the first case, to see one again')
    parser.add_argument('--once', action='store_true', help='that case alone')
    parser.add_argument('--patience', type=float, default=2.0, help='seconds a call may take')
    parser.add_argument('--board', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.board:
        print(json.dumps(_work(run_case, options)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the folders shall go with it
    with contextlib.ExitStack() as stack:
        options.folders = [
            stack.enter_context(tempfile.TemporaryDirectory(prefix='fuzz', dir=folder))
            for folder in ('/var/tmp', '/dev/shm') if os.access(folder, os.W_OK)]
        sys.exit(_watch(options) > 0)


def _watch(options):
    """Start processes until the time is over; returns how many of their cases were found bad."""
    name = os.path.basename(sys.argv[0])
    case, findings, slow, slowest, grown = options.case, 0, 0, (0.0, 0), 0.0
    end = time.monotonic() + options.seconds
    options.cases += options.case * bool(options.cases)
    while findings < MOST_FINDINGS and (case == options.case or not options.once):
        left = end - time.monotonic()
        if not options.once and (case >= options.cases if options.cases else left <= 0):
            break
        went, call, found = _watched(options, case, max(left, 0), options.patience, options.once)
        case = went['next']
        if re.search(r'^Timeout \(', found, re.MULTILINE):
            # The machine may have been busy: alone it gets five times as long.
            found = _watched(options, case - 1, 0, 5 * options.patience, True)[2]
            slow += not found
        if found:
            findings += 1
            print(f'{name}: --seed {options.seed} --case {case - 1} --once\n{call}\n{found}',
                  flush=True)
        slowest = max(slowest, tuple(went.get('slowest', slowest)))
        grown = max(grown, went.get('grown', grown))
    print(f'{name}: seed {options.seed}, {case - options.case} cases, {findings} found'
          + f', {slow} slow once' * bool(slow)
          + f'; the slowest call took {slowest[0]:.2f} s (case {slowest[1]}), {grown:.0f} MB more '
            'at the end')
    return findings
