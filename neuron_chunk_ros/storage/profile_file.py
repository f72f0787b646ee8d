# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A profile's file: JSON beside the bundles of one folder, checked before use."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from neuron_chunk_ros.errors import ProfileError
from neuron_chunk_ros.plain_file import read_plain
from neuron_chunk_ros.storage.atomic import replace_file
from neuron_chunk_ros.storage.device_facts import UNKNOWN, DeviceFacts, device_facts
from neuron_chunk_ros.storage.disk_errors import failure
from neuron_chunk_ros.storage.layout import BUNDLE_JSON
from neuron_chunk_ros.storage.profile import PROFILE_JSON, Line, Profile
from neuron_chunk_ros.storage.strict_json import (
    parse_object,
    printable,
    shown,
    want_keys,
    whole,
)

FORMAT = 'neuron-chunk-storage-profile'
VERSION = 1
_MAX_BYTES = 1 << 20
_MAX_SIZES = 1000
_MOST_LETTERS = 300  # of what a line says about a device
_MAX_SECONDS = 3600.0
_KEYS = {'format', 'version', 'low', 'high', 'knee_kib', 'saturation_kib', 'batch_seconds',
         'source', 'sizes_kib', 'seconds', 'quartiles', 'about'}
_LINE_KEYS = {'request_seconds', 'kib_seconds'}


def profile_path(folder: str | os.PathLike) -> Path:
    """Return where the profile of a folder of bundles lies; a bundle's lies in its parent."""
    folder = Path(os.path.abspath(folder))
    return (folder.parent if (folder / BUNDLE_JSON).exists() else folder) / PROFILE_JSON


def save(profile: Profile, path: str | os.PathLike) -> None:
    """Write a profile as JSON, whole or not at all; one that was there is replaced."""
    text = json.dumps({
        'format': FORMAT, 'version': VERSION,
        'low': profile.low._asdict(), 'high': profile.high._asdict(),
        'knee_kib': profile.knee_kib, 'saturation_kib': profile.saturation_kib,
        'batch_seconds': profile.batch_seconds, 'source': profile.source,
        'sizes_kib': profile.sizes_kib, 'seconds': profile.seconds_per_read,
        'quartiles': profile.quartiles, 'about': profile.about}, indent=1, allow_nan=False)
    path = Path(path)
    try:
        replace_file(path, [(text + '\n').encode()])
    except OSError as error:
        raise ProfileError(failure(path, error, 'it is as it was')) from error


def load(path: str | os.PathLike) -> Profile:
    """Read and check a profile. Raises ProfileError with one line naming file and fault."""
    try:
        return _profile(parse_object(read_plain(path, _MAX_BYTES)))
    except OSError as error:
        raise ProfileError(f'{path}: {error.strerror or error}') from error
    except ValueError as error:
        raise ProfileError(f'{path}: {error}; measure it again') from error


def find(bundle_folder: str | os.PathLike) -> tuple[Profile | None, str]:
    """Return the profile beside a bundle, or None and a line that says why and what to do."""
    folder = Path(os.path.abspath(bundle_folder))
    path = folder.parent / PROFILE_JSON
    cure = f'run: neuron-chunk profile --path {folder}'
    if not os.path.lexists(path):
        return None, f'no storage profile in {folder.parent}, {cure}'
    try:
        profile = load(path)
        here = device_facts(folder)
    except ProfileError as error:
        return None, f'storage profile unusable: {error}; {cure}'
    except OSError as error:
        return None, f'storage profile unusable: {folder}: {error.strerror or error}'
    if profile.source != 'measured':
        return None, f'storage profile {path} is {profile.source}, not measured; {cure}'
    there = storage_of(profile)
    if not there.same_storage(here):
        return None, (f'storage profile {path} is of {_name(there)}, the bundle lies on '
                      f'{_name(here)}; {cure}')
    return profile, ''


def storage_of(profile: Profile) -> DeviceFacts:
    """Return the storage a profile was measured on, as far as it tells."""
    return DeviceFacts(*(str(profile.about.get(key, UNKNOWN))
                         for key in ('file_system', 'mount_source', 'device', 'uuid')))


def _name(facts: DeviceFacts) -> str:
    return printable(f'{facts.device} ({facts.file_system}, {facts.mount_source})', _MOST_LETTERS)


def _profile(value: dict) -> Profile:
    if value.get('format') != FORMAT:
        raise ValueError(f'format is {shown(value.get("format"))}, want {FORMAT!r}')
    if type(value.get('version')) is not int or value['version'] != VERSION:
        raise ValueError(f'version {shown(value.get("version"))} is not one this release reads '
                         f'(it reads {VERSION})')
    want_keys(value, _KEYS, 'the profile')
    if not isinstance(value['source'], str):
        raise ValueError(f'source is {shown(value["source"])}, want a word')
    return Profile(
        _line(value['low'], 'low'), _line(value['high'], 'high'),
        _number(value['knee_kib'], 'knee_kib', 1 << 40),
        whole(value['saturation_kib'], 'saturation_kib', 1),
        _number(value['batch_seconds'], 'batch_seconds'), value['source'],
        tuple(whole(size, 'a size', 1) for size in _list(value, 'sizes_kib')),
        tuple(_number(number, 'a time') for number in _list(value, 'seconds')),
        tuple(_pair(pair) for pair in _list(value, 'quartiles')), _about(value['about']))


def _list(value: dict, key: str) -> list:
    if not isinstance(value[key], list) or len(value[key]) > _MAX_SIZES:
        raise ValueError(f'{key} must be a list of at most {_MAX_SIZES}')
    return value[key]


def _pair(value) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f'a pair of quartiles is {shown(value)}')
    return _number(value[0], 'a quartile'), _number(value[1], 'a quartile')


def _line(value, label: str) -> Line:
    want_keys(value, _LINE_KEYS, label)
    return Line(*(_number(value[key], f'{label}: {key}') for key in Line._fields))


def _number(value, label: str, most: float = _MAX_SECONDS) -> float:
    if type(value) not in (int, float) or not -most <= value <= most:
        raise ValueError(f'{label} is {shown(value)}, want a number up to {most:g}')
    return float(value)


def _about(value) -> dict:
    if not isinstance(value, dict) or len(value) > 100:
        raise ValueError('about must be an object of at most 100 entries')
    for key, fact in value.items():
        if (type(fact) not in (str, int, float) or len(str(fact)) > 1000
                or type(fact) is float and not math.isfinite(fact)):
            raise ValueError(f'about: {shown(key)} is {shown(fact)}, want a text or a number')
    return value
