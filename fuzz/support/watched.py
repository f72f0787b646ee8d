# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs cases in a process of its own and says which one it was that ended, held or bloated it."""

import argparse
import contextlib
import faulthandler
import itertools
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

MOST_MB = 512  # what a run of cases may take beyond what its process took before them
MOST_FINDINGS = 10
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

    def write(self, case, text):
        raw = f'{case}\n{text}'.encode('utf-8', 'backslashreplace')[:_ROOM - 1]
        self._memory[:len(raw) + 1] = raw + b'\0'

    def read(self):
        case, _, text = bytes(self._memory).split(b'\0', 1)[0].decode(
            'utf-8', 'replace').partition('\n')
        return int(case or -1), text


class Watch:
    """What a case announces its calls to; a call that takes too long ends the process."""

    def __init__(self, board, patience):
        self._board, self._patience, self.case = board, patience, 0

    def __call__(self, text):
        self._board.write(self.case, text)
        faulthandler.dump_traceback_later(self._patience, exit=True)


def _peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _work(run_case, options):
    """Run cases until the time is over."""
    watch = Watch(Board(options.board), options.patience)
    begun = end = None
    for watch.case in itertools.count(options.case):
        if begun is None or watch.case == options.case + 50:
            begun = _peak_mb()  # anew once what is made on first use has been made
        try:
            run_case(np.random.default_rng([options.seed, watch.case]), watch)
        finally:
            faulthandler.cancel_dump_traceback_later()
        if _peak_mb() > begun + MOST_MB:
            raise Finding(f'{_peak_mb() - begun:.0f} MB more than before, {MOST_MB} are allowed')
        end = end or time.monotonic() + options.seconds
        if options.once or time.monotonic() > end:
            return watch.case + 1


def _watched(options, case, seconds, patience, once):
    """Run cases in a process; returns (the next case, the call, what was found of it or '')."""
    with tempfile.NamedTemporaryFile(prefix='fuzz') as file:
        file.truncate(_ROOM)
        command = [sys.executable, sys.argv[0], '--seed', str(options.seed), '--case', str(case),
                   '--seconds', str(seconds), '--patience', str(patience), '--board', file.name]
        try:
            done = subprocess.run(
                command + ['--once'] * once, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                errors='replace', text=True, timeout=seconds + 120,
                env=os.environ | {_FOLDERS: os.pathsep.join(options.folders)})
        except subprocess.TimeoutExpired:
            at, call = Board(file.name).read()
            return at + 1, call, 'the process did not end'
        at, call = Board(file.name).read()
    if done.returncode == 0:
        return int(done.stdout.split()[-1]), call, ''
    ended = (signal.Signals(-done.returncode).name if done.returncode < 0
             else f'exit status {done.returncode}')
    return at + 1, call, f'{ended}\n{done.stdout[:6000]}'


def main(run_case, about):
    """Run `run_case(rng, watch)` as the command line says; end with 0 where nothing was found.

    rng is one of the seed and the case's number, watch(text) names a call before it is made.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument('--seconds', type=float, default=60)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--case', type=int, default=0, help='the first case, to see one again')
    parser.add_argument('--once', action='store_true', help='that case alone')
    parser.add_argument('--patience', type=float, default=2.0, help='seconds a call may take')
    parser.add_argument('--board', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.board:
        print(_work(run_case, options))
        return
    with contextlib.ExitStack() as stack:
        options.folders = [
            stack.enter_context(tempfile.TemporaryDirectory(prefix='fuzz', dir=folder))
            for folder in ('/var/tmp', '/dev/shm') if os.access(folder, os.W_OK)]
        sys.exit(_watch(options) > 0)


def _watch(options):
    """Start processes until the time is over; returns how many of their cases were found bad."""
    case, findings, slow = options.case, 0, 0
    end = time.monotonic() + options.seconds
    while findings < MOST_FINDINGS and (case == options.case or not options.once):
        left = end - time.monotonic()
        if left <= 0 and not options.once:
            break
        case, call, found = _watched(options, case, max(left, 0), options.patience, options.once)
        if found.startswith('exit status 1\nTimeout'):
            # The machine may have been busy: alone it gets five times as long.
            found = _watched(options, case - 1, 0, 5 * options.patience, True)[2]
            slow += not found
        if found:
            findings += 1
            print(f'{os.path.basename(sys.argv[0])}: --seed {options.seed} --case {case - 1} '
                  f'--once\n{call}\n{found}', flush=True)
    print(f'{os.path.basename(sys.argv[0])}: seed {options.seed}, {case - options.case} cases, '
          f'{findings} found' + f', {slow} slow once' * bool(slow))
    return findings
