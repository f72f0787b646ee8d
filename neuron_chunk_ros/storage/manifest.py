# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of single values in bundle.json. Each raises ValueError; the caller names the file."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

from neuron_chunk_ros.storage.row_format import ROW_FORMATS, STORED_FORMATS
from neuron_chunk_ros.storage.strict_json import parse_object, shown, want_keys, whole

FORMAT = 'neuron-chunk-bundle'
# The newest that is read; 1 had no orders, 2 no packed rows and no tables, 3 no bases, 4 no
# classes of heads.
VERSION = 5
NEW_IN_3, NEW_IN_4, NEW_IN_5 = {'rows', 'embedding', 'lm_head'}, {'bases'}, {'attention'}
_MAX_JSON_BYTES = 64 << 20
_FILE_NAME = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}', re.ASCII)
_WORD = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}', re.ASCII)
_SHA256 = re.compile(r'[0-9a-f]{64}', re.ASCII)


def read_manifest(path: Path) -> dict:
    """Read one JSON object. Raises OSError, ValueError."""
    with open(path, 'rb') as file:
        # not the bound alone: memory for it would be taken first
        data = file.read(min(os.fstat(file.fileno()).st_size, _MAX_JSON_BYTES) + 1)
    if len(data) > _MAX_JSON_BYTES:
        raise ValueError(f'over {_MAX_JSON_BYTES} bytes long')
    return parse_object(data)


def dump_manifest(manifest: dict) -> bytes:
    """Return bundle.json's text, its keys in the order of docs/BUNDLE.md.

    Of the oldest version that has what is in it, so that older releases read what they can.
    """
    version = next((version for version, new in ((5, NEW_IN_5), (4, NEW_IN_4), (3, NEW_IN_3))
                    if new & manifest.keys()), 2)
    if version == 5:  # whatever it was before
        manifest = {'rows': manifest['dtype'], 'embedding': None, 'lm_head': None, 'orders': None,
                    **manifest}
    manifest = {**manifest, 'version': version}
    order = ('format', 'version', 'family', 'dtype', 'rows', 'resident', 'files', 'orders',
             'embedding', 'groups', 'bases', 'lm_head', 'calibration', 'attention', 'provenance')
    ordered = {key: manifest[key] for key in order if key in manifest}
    return (json.dumps(ordered, indent=1) + '\n').encode()


def is_plain_name(name) -> bool:
    """Tell whether a name may stand for a file inside a bundle: no folder, no dot in front."""
    return isinstance(name, str) and _FILE_NAME.fullmatch(name) is not None


def inside(folder: Path, name) -> Path:
    """Return the path of a regular file in the folder; a link may not lead out of it."""
    if not is_plain_name(name):
        raise ValueError(f'{shown(name)} is not a plain file name')
    path = folder / name
    try:
        status = os.stat(path)
        outside = path.resolve(strict=True).parent != folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise ValueError(f'{name} is missing or unreadable') from error
    if outside:
        raise ValueError(f'{name} is a link that leaves the bundle')
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f'{name} is not a regular file')
    return path


def sized_file(folder: Path, value, label: str) -> Path:
    """Check {file, bytes, sha256}: the file is there and has so many bytes."""
    want_keys(value, {'file', 'bytes', 'sha256'}, label)
    path = inside(folder, value['file'])
    size = os.stat(path).st_size
    if whole(value['bytes'], f'{label}: bytes') != size:
        raise ValueError(f'{label}: {value["file"]} has {size} bytes, '
                         f'{value["bytes"]} are recorded')
    checksum(value['sha256'], label)
    return path


def want_dtype(value, label: str) -> None:
    """Want the name of a weight type."""
    if not isinstance(value, str) or value not in ROW_FORMATS:
        raise ValueError(f'{label} is {shown(value)}, want one of {", ".join(ROW_FORMATS)}')


def want_rows(value, label: str) -> None:
    """Want the name of a row format."""
    if not isinstance(value, str) or value not in STORED_FORMATS:
        raise ValueError(f'{label} is {shown(value)}, want one of {", ".join(STORED_FORMATS)}')


def word(value, label: str) -> str:
    """Return a name of letters, digits, dot, dash, underscore."""
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError(f'{label} is {shown(value)}, want letters, digits, dot, dash, underscore')
    return value


def checksum(value, label: str) -> str:
    """Return a sha256 in hexadecimal."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f'{label}: sha256 must be 64 hexadecimal digits')
    return value
