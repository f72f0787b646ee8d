# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Putting what was learnt about a bundle into it: all or nothing, whenever it is killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.storage.atomic import replace_file
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.calibration import FILE_PATTERN, complete
from neuron_chunk_ros.storage.disk_errors import UnsyncedError, failure
from neuron_chunk_ros.storage.layout import BUNDLE_JSON
from neuron_chunk_ros.storage.manifest import dump_manifest, read_manifest


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
            replace_file(folder / BUNDLE_JSON, [dump_manifest(manifest)])
    except OSError as error:
        raise BundleError(failure(bundle.path / BUNDLE_JSON, error, 'it is as it was')) from error


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
            try:
                _replace_arrays(folder / done['neurons']['file'], data)
                replace_file(folder / BUNDLE_JSON, [dump_manifest(manifest)])
            except UnsyncedError:  # a power failure may bring the old one back: keep its arrays
                raise
            except BaseException:
                _remove_unnamed(folder)
                raise
            _remove_unnamed(folder)
    except OSError as error:
        raise BundleError(failure(folder / BUNDLE_JSON, error, 'it is as it was')) from error
    return done


def _replace_arrays(path: Path, data: bytes) -> None:
    try:
        replace_file(path, [data])
    except UnsyncedError as error:  # nothing names them yet
        raise OSError(error.errno, error.strerror, str(path)) from error


def _remove_unnamed(folder: Path) -> None:
    """Remove arrays that bundle.json doesn't name: older ones, or of a writer that failed."""
    with contextlib.suppress(OSError, ValueError):
        calibration = read_manifest(folder / BUNDLE_JSON).get('calibration')
        named = calibration and calibration['neurons']['file']
        for path in folder.iterdir():
            # together with what a killed writer left of them
            name = path.name.removeprefix('.').partition('.partial-')[0]
            if FILE_PATTERN.fullmatch(name) and path.name != named:
                with contextlib.suppress(OSError):
                    path.unlink()


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
