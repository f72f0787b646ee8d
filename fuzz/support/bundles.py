# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles to change, and what opening one and asking it may do: answer, or refuse in one line."""

import gc
import hashlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'critical')
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

import numpy as np  # noqa: E402
import torch  # noqa: E402
from support import refusals, watched  # noqa: E402

from neuron_chunk_ros.engine.session import Session  # noqa: E402
from neuron_chunk_ros.families import trial  # noqa: E402
from neuron_chunk_ros.prepare.calibrate import calibrate  # noqa: E402
from neuron_chunk_ros.prepare.convert import convert  # noqa: E402
from neuron_chunk_ros.prepare.rewrite import rewrite  # noqa: E402
from neuron_chunk_ros.prepare.synthesize import synthesize  # noqa: E402
from neuron_chunk_ros.storage.annotate import store_attention  # noqa: E402
from neuron_chunk_ros.storage.bundle import Bundle  # noqa: E402

FAMILIES = ('tiny-llava-onevision', 'tiny-qwen2-vl')
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
_TRIAL_SECONDS = 300.0  # over what families/trial.py allows for the slowest tokenizer
_MOST_FILES = 16        # descriptors that may stay open for a while
_DISK = Path(watched.FOLDERS[0] if watched.FOLDERS else tempfile.gettempdir())
_files = None


def quiet():
    """Keep libraries from telling of every odd setting, and their threads from the other core."""
    warnings.simplefilter('ignore')
    logging.disable(logging.CRITICAL)
    np.seterr(all='ignore')
    torch.set_num_threads(1)


def plain(family):
    """Return the folder of a family's bundle, made once."""
    def make(folder):
        synthesize(family, folder / 'model', dtype='float32', seed=7)
        convert(folder / 'model', folder / 'bundle')
    return _once(family, make)


def calibrated(family):
    """Return one with a calibration, row orders and classes of heads."""
    def make(folder):
        config = json.loads((plain(family) / 'config.json').read_text())['text_config']
        shutil.copytree(plain(family), folder / 'first')
        calibrate(folder / 'first', [('what is there?', [PICTURE])])
        rewrite(folder / 'first', folder / 'bundle', order='hot-cold')
        layers, heads = config['num_hidden_layers'], config['num_attention_heads']
        store_attention(Bundle.open(folder / 'bundle'),
                        [[head % 4 for head in range(heads)] for _ in range(layers)], {})
    return _once(f'{family}-calibrated', make)


def packed(family):
    """Return one whose rows are in two parts."""
    def make(folder):
        convert(plain(family).parent / 'model', folder / 'bundle', rows='int8', base=4)
    return _once(f'{family}-packed', make)


def _once(name, make):
    folder = _DISK / 'made' / name
    if not folder.exists():
        unfinished = _DISK / f'{name}-unfinished'
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make(unfinished)
        folder.parent.mkdir(exist_ok=True)
        unfinished.rename(folder)
    return folder / 'bundle'


def emptied():
    """Return the case's own folder, without what an earlier case left there."""
    case = _DISK / 'case'
    if case.exists():
        shutil.rmtree(case)
    case.mkdir()
    return case


def copied(bundle):
    """Return a copy to change, in the case's own folder."""
    # links: what changes is written anew
    return Path(shutil.copytree(bundle, emptied() / 'bundle', copy_function=os.link))


def rewritten(path, data):
    """Write a file of a copy anew."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def seal(folder, name):
    """Have bundle.json list a file of the folder as it is now, as a stranger would."""
    manifest = json.loads((folder / 'bundle.json').read_bytes())
    data = (folder / name).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if name in manifest['files']:
        manifest['files'][name] = digest
    for one in (manifest['resident'], manifest.get('orders'),
                (manifest.get('calibration') or {}).get('neurons')):
        if one and one['file'] == name:
            one.update({key: new for key, new in (('bytes', len(data)), ('sha256', digest))
                        if key in one})
    rewritten(folder / 'bundle.json', json.dumps(manifest).encode())


class Leftovers:
    """A case's own folder for temporary files, empty at its end; and no descriptor more."""

    def __enter__(self):
        self._folder = _DISK / 'temporary'
        self._folder.mkdir(exist_ok=True)
        tempfile.tempdir = str(self._folder)

    def __exit__(self, kind, *_):
        global _files
        if kind is not None:
            return
        left = os.listdir(self._folder)
        if left:
            raise watched.Finding(f'files left behind: {left}')
        now = len(os.listdir('/proc/self/fd'))
        _files = _files or now
        if now > _files + _MOST_FILES:
            gc.collect()  # an error's own frames may hold some
            now = len(os.listdir('/proc/self/fd'))
        if now > _files + _MOST_FILES:
            raise watched.Finding(f'{now} descriptors are open, {_files} were at first')


def watch_trials(watch, text):
    """Give the trials of templates and tokenizers, which have bounds of their own, their time."""
    run = trial._run if not hasattr(trial._run, 'plain') else trial._run.plain

    def announced(task):
        watch(f'{text}\na trial: {task["do"]}', _TRIAL_SECONDS)
        try:
            return run(task)
        finally:
            watch(text)
    announced.plain = run
    trial._run = announced


def ask(watch, folder, text, **options):
    """Open a bundle and ask for two words; tell whether it opened."""
    watch_trials(watch, text)
    watch(text)
    session = refusals.refused_or(lambda: Session.open(folder, **options), [folder])
    if session is None:
        return False
    try:
        watch(f'{text}\nask')
        refusals.refused_or(lambda: session.ask('what is there?', [PICTURE], max_new_tokens=2))
    finally:
        session.close()
    return True
