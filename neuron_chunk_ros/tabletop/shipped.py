# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tabletop model that the package installs, and its bundle."""

import contextlib
import hashlib
import json
from pathlib import Path

from neuron_chunk_ros.cache import cache_folder
from neuron_chunk_ros.errors import BundleError, ModelError
from neuron_chunk_ros.storage.atomic import ScratchFolder
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.disk_errors import failure
from neuron_chunk_ros.storage.partial import remove_stale

ROWS = 'int8'  # the row format that ships
CLASSES = Path(__file__).parent / 'head_classes.json'  # of its heads, see docs/TABLETOP.md


def model_dir() -> Path:
    """Return the shipped Hugging Face folder.

    :raises ModelError: where the installation lacks it.
    """
    folder = Path(__file__).parent / 'model'
    if not (folder / 'model.safetensors').exists() or not CLASSES.exists():
        raise ModelError(f'{folder}: the tabletop model is missing from this installation; '
                         'reinstall the package or train it (neuron-chunk tabletop train)')
    return folder


def bundle_dir(cache: Path | None = None) -> Path:
    """Return the shipped model's bundle, converting it (8 MB) on first use.

    Its rows have eight bits: half the reading, and no answer of 2,700 more wrong
    (docs/TABLETOP.md). It lies in the user's cache, named after the model's content, so that a new
    release of the model makes a new bundle.

    :param cache: folder to keep it in; default $XDG_CACHE_HOME/neuron_chunk_ros.
    """
    from neuron_chunk_ros.prepare.convert import convert
    from neuron_chunk_ros.storage.annotate import store_attention
    source = model_dir()
    digest = hashlib.sha256()
    for path in (*sorted(p for p in source.iterdir() if p.is_file()), CLASSES):
        digest.update(path.name.encode() + b'\0' + path.read_bytes())
    cache = cache or cache_folder()
    target = cache / f'tabletop-{ROWS}-{digest.hexdigest()[:16]}'
    if target.exists():
        try:
            Bundle.open(target)
            with contextlib.suppress(OSError):
                remove_stale(target)  # of a process that was killed when it had made it
            return target
        except BundleError as error:
            raise BundleError(f'{error}; delete {target} to have it made anew') from error
    classes = json.loads(CLASSES.read_text(encoding='utf-8'))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with ScratchFolder(target) as scratch:
            made = scratch.folder / 'bundle'
            convert(source, made, name='tabletop', rows=ROWS)
            store_attention(Bundle.open(made), classes['heads'], classes['about'])
            made.rename(target)
    except OSError as error:
        raise BundleError(failure(cache, error, 'nothing was kept')) from error
    except BundleError:
        # Another process may have made it meanwhile; a bundle appears whole or not at all.
        if not target.exists():
            raise
    return target
