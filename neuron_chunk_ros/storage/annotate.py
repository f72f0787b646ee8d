# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Putting what was learnt about a bundle into it: all or nothing, whenever it is killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.storage.atomic import sync, write_file
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.calibration import FILE_PATTERN, complete
from neuron_chunk_ros.storage.layout import BUNDLE_JSON
from neuron_chunk_ros.storage.manifest import dump_manifest, read_manifest

_LEFT_OVER = re.compile(r'\.(bundle\.json|calibration-.*)\.partial-[0-9a-f]{8}', re.ASCII)


def store_attention(bundle: Bundle, heads: list[list[int]], about: dict) -> None:
    """Give a bundle classes of heads, in the place of those it may have.

    :param heads: of each layer, the class of each query head; see attention/templates.py.
    :param about: for readers, not read back.
    :raises BundleError: where the folder can't be written, or holds another bundle by now.
    """
    try:
        with _locked(bundle) as folder:
            manifest = {**read_manifest(folder / BUNDLE_JSON),
                        'attention': {'heads': heads, 'about': about}}
            _exchange(folder / BUNDLE_JSON, dump_manifest(manifest))
    except OSError as error:
        raise BundleError(f'cannot write the head classes of {bundle.path}: {error.strerror}; '
                          f'it is as it was') from error


def store_calibration(bundle: Bundle, calibration: dict,
                      arrays: Mapping[str, np.ndarray]) -> dict:
    """Give a bundle a calibration in the place of the one it may have; returns it completed.

    The arrays' file is named after its content and written first; bundle.json, which names it,
    is then exchanged in one step.

    :raises BundleError: where the folder can't be written, or holds another bundle by now.
    :raises ValueError: for a calibration of the wrong shape.
    """
    done, data = complete(calibration, arrays)
    folder = bundle.path
    try:
        with _locked(bundle):
            manifest = {'orders': None, **read_manifest(folder / BUNDLE_JSON),
                        'calibration': done}
            _exchange(folder / done['neurons']['file'], data)
            _exchange(folder / BUNDLE_JSON, dump_manifest(manifest))
            for path in folder.iterdir():
                old = FILE_PATTERN.fullmatch(path.name) and path.name != done['neurons']['file']
                if old or _LEFT_OVER.fullmatch(path.name):  # by a writer that was killed
                    with contextlib.suppress(OSError):
                        path.unlink()
    except OSError as error:
        raise BundleError(f'cannot write the calibration of {folder}: {error.strerror}; '
                          f'it is as it was') from error
    return done


@contextlib.contextmanager
def _locked(bundle: Bundle) -> Iterator[Path]:
    """Hold the folder's lock: of two writers at once each leaves a whole bundle, the later one's.

    Raises OSError, and BundleError where the folder holds another bundle by now.
    """
    folder = bundle.path
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _weights(Bundle.open(folder)) != _weights(bundle):
            raise BundleError(f'{folder}: the bundle was exchanged meanwhile, begin again')
        yield folder
    finally:
        os.close(lock)


def _weights(bundle: Bundle) -> dict[str, str]:
    return {group.name: group.checksum for group in bundle.stored.values()}


def _exchange(path: Path, data: bytes) -> None:
    """Replace a file in one step; on failure it is as it was."""
    fresh = path.with_name(f'.{path.name}.partial-{secrets.token_hex(4)}')
    try:
        write_file(fresh, [data])
        sync(fresh)
        os.replace(fresh, path)
        sync(path.parent)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
