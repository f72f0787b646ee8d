# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Running a model folder's chat template and trying its tokenizer, in a process that may die.

A template is a program: with two loops it runs for years, with one it takes all memory. So are the
patterns of a tokenizer. Neither is interrupted from within.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Seconds by the clock, for each of processor time: where all cores are busy.
_SLOWER = 10
_START = 30
_LOADING = 10  # times the seconds of a template: a large vocabulary takes a while to be read
_LONGEST = 1 << 16      # characters of a rendered prompt ...
_LONGEST_IMAGE = 1 << 12  # ... and more for each image
_KEPT = 256

_tried: dict[bytes, object] = {}  # what this process need not try again


class TrialError(Exception):
    """What was tried failed, took too long or too much memory; says which."""


def render(template: str, variables: dict[str, str], messages: Sequence[list], images: int,
           seconds: float) -> list[str]:
    """Return what a chat template makes of each list of messages.

    :param variables: beside the messages: the tokenizer's special tokens.
    :param images: in one list at most.
    :param seconds: of processor time for all.
    :raises TrialError: where it fails or exceeds a bound.
    """
    task = {'do': 'render', 'template': template, 'variables': variables, 'messages': messages,
            'longest': _LONGEST + images * _LONGEST_IMAGE, 'seconds': seconds}
    if 'strftime_now' in template:  # says something else tomorrow
        return _run(task)
    return _once(json.dumps(task).encode(), lambda: _run(task))


def try_tokenizer(file: Path, seconds: float) -> None:
    """Load tokenizer.json and tokenise texts of many kinds. Raises TrialError."""
    allowed = _LOADING * seconds
    _once(b'%g %b' % (allowed, file.read_bytes()),
          lambda: _run({'do': 'tokenize', 'file': str(file), 'seconds': allowed}))


def _once(about: bytes, run: Callable):
    """Return what `run` returned for the same before, else run it."""
    digest = hashlib.sha256(about).digest()
    if digest not in _tried:
        found = run()
        if len(_tried) >= _KEPT:
            _tried.clear()
        _tried[digest] = found
    return _tried[digest]


def _run(task: dict):
    # The modules are found where this process finds them, however it was started.
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path)),
                   'TOKENIZERS_PARALLELISM': 'false'}
    try:
        done = subprocess.run(
            [sys.executable, '-m', 'neuron_chunk_ros.trial_child'], env=environment,
            input=json.dumps(task), capture_output=True, text=True,
            timeout=_START + _SLOWER * task['seconds'])
    except subprocess.TimeoutExpired as error:
        raise TrialError(f'it takes more than {error.timeout:g} s') from error
    if done.returncode == -signal.SIGPROF:
        raise TrialError(f'it takes more than {task["seconds"]:g} s of processor time')
    if done.returncode or not done.stdout:
        said = ' '.join(done.stderr.split())[-200:]
        raise TrialError(f'trying it ended with status {done.returncode} ({said})')
    answer = json.loads(done.stdout)
    if 'failed' in answer:
        raise TrialError(answer['failed'])
    return answer['done']
