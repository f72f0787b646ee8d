# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The writers that are disturbed, the process they run in, and what has to hold afterwards."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.verify import verify

HERE = Path(__file__).parent
COMMAND = 'neuron_chunk_ros.cli.main:main'
_COUNT, _FAIL_ONCE, _FAIL_ON, _KILL = range(4)
# What can become of a call: name -> (action, errno)
DISTURBANCES = {
    'killed': (_KILL, 0),                     # in the middle of a write
    'error': (_FAIL_ONCE, errno.EIO),         # and cleaning up works
    'disk full': (_FAIL_ON, errno.ENOSPC),    # first a write that is cut short
    'disk gone': (_FAIL_ON, errno.EIO),       # cleaning up fails, too
}
_LEFT_OVER = re.compile(r'\.[^/]+\.partial-[0-9a-f]{8}')
# Files that are named by another one beside them, or are left over
_NAMED = {'calibration-': 'bundle.json', 'state-': 'state.json'}
_IMPORTS = (
    'torch', 'transformers', 'matplotlib.figure', 'matplotlib.backends.backend_agg', 'PIL.Image',
    'PIL.PngImagePlugin', 'calls', 'tqdm',
    'neuron_chunk_ros.compress.bundles', 'neuron_chunk_ros.compress.exam',
    'neuron_chunk_ros.compress.integers', 'neuron_chunk_ros.prepare.calibrate',
    'neuron_chunk_ros.prepare.characterize', 'neuron_chunk_ros.prepare.convert',
    'neuron_chunk_ros.prepare.rewrite', 'neuron_chunk_ros.prepare.synthesize',
    'neuron_chunk_ros.storage.measure', 'neuron_chunk_ros.cli.profile_plot',
    'neuron_chunk_ros.tabletop.evaluation', 'neuron_chunk_ros.tabletop.shipped',
    'transformers.models.llava_onevision.modeling_llava_onevision',
    'transformers.models.qwen2_vl.modeling_qwen2_vl')


class Prepared:
    """The prepared process; see prepared.py."""

    def __init__(self, shim: Path):
        env = {**os.environ, 'LD_PRELOAD': str(shim), 'OMP_NUM_THREADS': '1',
               'TOKENIZERS_PARALLELISM': 'false', 'TRANSFORMERS_VERBOSITY': 'error',
               'PYTHONPATH': os.pathsep.join([str(HERE), *filter(None, sys.path)])}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / 'prepared.py'), *_IMPORTS], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, folder: Path, call: str, arguments: list, **disturbance) -> dict:
        """Run a writer in a child; what is disturbed is what changes the folder."""
        self._process.stdin.write(json.dumps(
            {'folder': str(folder), 'call': call, 'arguments': arguments, **disturbance}) + '\n')
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)


@dataclass
class Writer:
    """One writer, run on a folder in which `make` has put what was there before."""

    arguments: Callable[[Path], list]
    make: Callable[[Path], None] = lambda folder: None
    target: str = ''      # of writers that refuse to replace: what they write
    call: str = COMMAND
    bundle: str = ''      # below the folder, where a bundle is written
    # Where several files are replaced one after the other, each is whole, but not all of one age.
    each: bool = False
    work: Path = None
    before: dict = field(default_factory=dict)
    after: dict = field(default_factory=dict)
    calls: int = 0
    writing: float = 0.0  # seconds from the first call on
    seconds: float = 0.0

    def begin(self, prepared: Prepared, work: Path) -> None:
        """See what an undisturbed run does."""
        self.work = work
        self.restore()
        self.before = contents(work)
        done = self.run(prepared)
        assert done['code'] == 0, done['err']
        self.calls, self.writing, self.seconds = done['calls'], done['writing'], done['seconds']
        self.after = contents(work)
        assert self.before != self.after and not left_over(work)
        self.whole()

    def restore(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        self.make(self.work)

    def run(self, prepared: Prepared, **disturbance) -> dict:
        arguments = self.arguments(self.work)
        if self.call == COMMAND:
            arguments = [[str(argument) for argument in arguments]]
        return prepared.run(self.work, self.call, arguments, **disturbance)

    def disturb(self, prepared: Prepared, number: int, name: str, again: bool = True) -> None:
        """Disturb the Nth call and check what is left; run again where wanted, or needed."""
        if contents(self.work) != self.before or left_over(self.work):
            self.restore()
        action, code = DISTURBANCES[name]
        done = self.run(prepared, number=number, action=action, errno=code)
        self.check(prepared, done, name, again)

    def kill(self, prepared: Prepared, seconds: float, after_first: bool) -> bool:
        """Kill it after so many seconds, check what is left; tell whether it was still alive."""
        self.restore()
        done = self.run(prepared, seconds=seconds, after_first=after_first)
        self.check(prepared, done, 'killed')
        return done['code'] != 0

    def check(self, prepared: Prepared, done: dict, name: str, again: bool = True) -> None:
        where = f'{name} at {done["disturbed"]}: {done["code"]} {done["err"]}'
        leaves, found = left_over(self.work), contents(self.work)
        if name == 'killed':
            assert done['code'] in (0, -signal.SIGKILL), where
        else:
            assert done['code'] in (0, 1), where
        if self.each:
            for path in found.keys() | self.before.keys():
                assert found.get(path) in (self.before.get(path), self.after.get(path)), (
                    path, where)
        else:
            assert found in (self.before, self.after), (differing(found, self.before), where)
        if done['code'] == 0:
            assert found == self.after, where
        if done['code'] == 1:
            lines = done['err'].splitlines()
            assert len(lines) == 1 and lines[0].startswith('neuron-chunk: error: '), where
            assert str(self.work) in lines[0], where
            # what it promises
            kept = 'nothing was kept' in lines[0] or 'as it was' in lines[0]
            assert self.each or kept == (found == self.before), where
            assert not kept or name == 'disk gone' or not leaves or 'unlink' in done['disturbed'] \
                or 'rmdir' in done['disturbed'], (leaves, where)
        self.whole()
        if not again and not leaves:
            return
        if self.target and found == self.after:
            shutil.rmtree(self.work / self.target)
        again = self.run(prepared)
        assert again['code'] == 0, (again['err'], where)
        assert contents(self.work) == self.after, where
        assert not left_over(self.work), (left_over(self.work), where)

    def whole(self) -> None:
        """What is there can be used, whatever lies beside it."""
        if self.bundle and (self.work / self.bundle).exists():
            assert verify(Bundle.open(self.work / self.bundle)) == []


def left_over(work: Path) -> list[str]:
    """Return what killed writers left: by their names nobody takes it for what it is to become."""
    found = [str(path.relative_to(work)) for path in work.rglob('.*')
             if _LEFT_OVER.fullmatch(path.name)]
    return found + [str(path.relative_to(work)) for path in work.rglob('*-*.safetensors')
                    if _unnamed(path)]


def contents(work: Path) -> dict[str, str]:
    """Map each path below a folder to its checksum, leaving out what was left over."""
    found = {}
    for folder, folders, files in os.walk(work):
        folders[:] = [name for name in folders if not _LEFT_OVER.fullmatch(name)]
        here = Path(folder)
        for name in folders:
            found[str((here / name).relative_to(work))] = ''
        for name in files:
            if not _LEFT_OVER.fullmatch(name) and not _unnamed(here / name):
                data = (here / name).read_bytes()
                found[str((here / name).relative_to(work))] = hashlib.sha256(data).hexdigest()
    return found


def _unnamed(path: Path) -> bool:
    """Tell what nothing beside it names: a calibration's arrays, a training run's state."""
    return any(path.name.startswith(start) and (path.parent / by).exists()
               and path.name not in (path.parent / by).read_text()
               for start, by in _NAMED.items())


def differing(one: dict, other: dict) -> list[str]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
