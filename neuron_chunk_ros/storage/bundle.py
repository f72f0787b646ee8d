# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Opening a bundle: a model folder prepared for flash. Everything read is checked before use."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.storage.dtypes import ITEM_BYTES, WEIGHT_TYPES
from neuron_chunk_ros.storage.layout import ALIGNMENT, BUNDLE_JSON, Group, GroupPlan, Member
from neuron_chunk_ros.storage.safetensors_header import TensorEntry, read_header
from neuron_chunk_ros.storage.strict_json import parse_object, shown, whole

__all__ = ['Bundle', 'Group', 'GroupPlan', 'Member']

FORMAT = 'neuron-chunk-bundle'
VERSION = 1
_MAX_JSON_BYTES = 64 << 20
_KEYS = {'format', 'version', 'family', 'dtype', 'resident', 'files', 'groups', 'calibration',
         'provenance'}
_GROUP_KEYS = {'name', 'file', 'tensor', 'offset', 'rows', 'columns', 'row_bytes', 'dtype',
               'members', 'scale', 'permutation', 'sha256'}
_FILE_NAME = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}', re.ASCII)
_WORD = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}', re.ASCII)
_SHA256 = re.compile(r'[0-9a-f]{64}', re.ASCII)


def is_plain_name(name) -> bool:
    """Tell whether a name may stand for a file inside a bundle: no folder, no dot in front."""
    return isinstance(name, str) and _FILE_NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class Bundle:
    """An opened, checked bundle. Holds no descriptor: files are opened by whoever reads them."""

    path: Path
    family: str
    dtype: str
    groups: dict[str, Group]  # by name, in decoder order
    flash_files: list[Path]  # a Reader's paths; file_index(group) counts in this list
    flash_bytes: int  # of all groups, without headers and padding
    resident_file: Path
    resident_bytes: int  # of all resident tensors
    resident_tensors: dict[str, TensorEntry]
    resident_checksum: str
    files: dict[str, str]  # copied files: name -> sha256
    calibration: dict | None
    provenance: dict

    @classmethod
    def open(cls, path: str | os.PathLike) -> Bundle:
        """Open a bundle folder. Raises BundleError with one line naming the file and the fault."""
        folder = Path(path)
        manifest = folder / BUNDLE_JSON
        if not folder.is_dir():
            raise BundleError(f'{folder}: no such bundle folder')
        if not os.path.lexists(manifest):
            raise BundleError(f'{folder}: not a bundle, {BUNDLE_JSON} is missing '
                              f'(make one with: neuron-chunk convert MODEL_DIR BUNDLE_DIR)')
        try:
            _inside(folder, BUNDLE_JSON)
            return _Opening(folder, _read(manifest)).bundle()
        except OSError as error:
            raise BundleError(f'{manifest}: {error.strerror}') from error
        except ValueError as error:
            raise BundleError(f'{manifest}: {error}') from error

    def file_index(self, group: Group) -> int:
        """Return the group's file as an index into flash_files."""
        return self.flash_files.index(self.path / group.file)


class _Opening:
    """The checks of one bundle.json, in order. Raises ValueError; the caller names the file."""

    def __init__(self, folder: Path, manifest: dict):
        self.folder = folder
        self.manifest = manifest

    def bundle(self) -> Bundle:
        manifest = self.manifest
        if manifest.get('format') != FORMAT:
            raise ValueError(f'format is {shown(manifest.get("format"))}, want {FORMAT!r}')
        version = manifest.get('version')
        if type(version) is not int or version != VERSION:
            raise ValueError(f'version {shown(version)} is not one this release reads '
                             f'(it reads {VERSION}): convert the model again')
        _want_keys(manifest, _KEYS, 'bundle.json')
        family, dtype = _word(manifest['family'], 'family'), manifest['dtype']
        _want_dtype(dtype, 'dtype')
        calibration, provenance = manifest['calibration'], manifest['provenance']
        if calibration is not None and not isinstance(calibration, dict):
            raise ValueError('calibration must be an object or null')
        if not isinstance(provenance, dict):
            raise ValueError('provenance must be an object')
        resident_name, resident_sum, tensors = self.resident()
        files = self.files()
        groups = self.groups(dtype)
        flash = self.flash(groups, {resident_name, *files})
        return Bundle(
            path=self.folder, family=family, dtype=dtype, groups=groups,
            flash_files=[self.folder / name for name in flash],
            flash_bytes=sum(group.nbytes for group in groups.values()),
            resident_file=self.folder / resident_name,
            resident_bytes=sum(entry.nbytes for entry in tensors.values()),
            resident_tensors=tensors, resident_checksum=resident_sum, files=files,
            calibration=calibration, provenance=provenance)

    def resident(self) -> tuple[str, str, dict[str, TensorEntry]]:
        value = self.manifest['resident']
        _want_keys(value, {'file', 'bytes', 'sha256'}, 'resident')
        path = _inside(self.folder, value['file'])
        size = os.stat(path).st_size
        if whole(value['bytes'], 'resident: bytes') != size:
            raise ValueError(f'resident: {value["file"]} has {size} bytes, '
                             f'{value["bytes"]} are recorded')
        return (value['file'], _checksum(value['sha256'], 'resident'),
                read_header(path, BundleError))

    def files(self) -> dict[str, str]:
        files = self.manifest['files']
        if not isinstance(files, dict) or 'config.json' not in files:
            raise ValueError('files must be an object with at least config.json')
        for name, checksum in files.items():
            _inside(self.folder, name)
            _checksum(checksum, f'files: {name}')
        return dict(files)

    def groups(self, dtype: str) -> dict[str, Group]:
        values = self.manifest['groups']
        if not isinstance(values, list) or not values:
            raise ValueError('groups must be a list of at least one')
        groups: dict[str, Group] = {}
        members: set[str] = set()
        for index, value in enumerate(values):
            group = _group(value, f'groups[{index}]')
            if group.name in groups:
                raise ValueError(f'group {group.name} appears twice')
            if group.dtype != dtype:
                raise ValueError(f'group {group.name}: dtype {group.dtype}, '
                                 f'the bundle says {dtype}')
            for member in group.members:
                if member.name in members:
                    raise ValueError(f'group {group.name}: member {member.name} appears twice')
                members.add(member.name)
            groups[group.name] = group
        return groups

    def flash(self, groups: dict[str, Group], taken: set[str]) -> list[str]:
        """Hold the groups against the flash files' own headers; returns the files in order."""
        headers: dict[str, dict[str, TensorEntry]] = {}
        used: set[tuple[str, str]] = set()
        for group in groups.values():
            if group.file in taken:
                raise ValueError(f'group {group.name}: {group.file} is not a flash file')
            if group.file not in headers:
                path = _inside(self.folder, group.file)
                headers[group.file] = read_header(path, BundleError)
            entry = headers[group.file].get(group.tensor)
            if entry is None:
                raise ValueError(f'group {group.name}: no tensor {group.tensor} in {group.file}')
            if (group.file, group.tensor) in used:
                raise ValueError(f'group {group.name}: overlaps another in {group.file}')
            used.add((group.file, group.tensor))
            if entry.begin != group.offset:
                raise ValueError(f'group {group.name}: offset {group.offset}, '
                                 f'in {group.file} it lies at {entry.begin}')
            if (entry.dtype, entry.shape) != (WEIGHT_TYPES[group.dtype],
                                              (group.rows, group.columns)):
                raise ValueError(f'group {group.name}: {group.file} holds {entry.dtype} '
                                 f'{list(entry.shape)}, want {WEIGHT_TYPES[group.dtype]} '
                                 f'[{group.rows}, {group.columns}]')
        for file, header in headers.items():
            for tensor in header:
                if (file, tensor) not in used and not tensor.startswith('__pad.'):
                    raise ValueError(f'{file}: tensor {shown(tensor)} belongs to no group')
        return list(headers)


def _group(value, label: str) -> Group:
    _want_keys(value, _GROUP_KEYS, label)
    name = _word(value['name'], f'{label}: name')
    label = f'group {name}'
    _want_dtype(value['dtype'], f'{label}: dtype')
    if not is_plain_name(value['file']):
        raise ValueError(f'{label}: file {shown(value["file"])} is not a plain file name')
    if value['scale'] is not None or value['permutation'] is not None:
        raise ValueError(f'{label}: scale and permutation are not read by this release')
    if not isinstance(value['members'], list) or not value['members']:
        raise ValueError(f'{label}: members must be a list of at least one')
    members = []
    for member in value['members']:
        _want_keys(member, {'name', 'columns'}, f'{label}: a member')
        members.append(Member(_word(member['name'], f'{label}: a member'),
                              whole(member['columns'], f"{label}: a member's columns", 1)))
    rows, columns, row_bytes, offset = (
        whole(value[key], f'{label}: {key}', least)
        for key, least in (('rows', 1), ('columns', 1), ('row_bytes', 1), ('offset', 0)))
    if sum(member.columns for member in members) != columns:
        raise ValueError(f"{label}: the members' columns do not sum to {columns}")
    if row_bytes != columns * ITEM_BYTES[WEIGHT_TYPES[value['dtype']]]:
        raise ValueError(f'{label}: row_bytes {row_bytes} do not fit {columns} columns')
    if offset % ALIGNMENT:
        raise ValueError(f'{label}: offset {offset} is not a multiple of {ALIGNMENT}')
    return Group(name, value['file'], _word(value['tensor'], f'{label}: tensor'), offset, rows,
                 columns, row_bytes, value['dtype'], tuple(members),
                 _checksum(value['sha256'], label))


def _read(path: Path) -> dict:
    with open(path, 'rb') as file:
        data = file.read(_MAX_JSON_BYTES + 1)
    if len(data) > _MAX_JSON_BYTES:
        raise ValueError(f'over {_MAX_JSON_BYTES} bytes long')
    return parse_object(data)


def _inside(folder: Path, name) -> Path:
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


def _want_keys(value, keys: set[str], label: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f'{label} must be an object')
    for missing in sorted(keys - value.keys()):
        raise ValueError(f'{label}: {missing!r} is missing')
    for extra in sorted(value.keys() - keys):
        raise ValueError(f'{label}: {shown(extra)} is not known')


def _want_dtype(value, label: str) -> None:
    if not isinstance(value, str) or value not in WEIGHT_TYPES:
        raise ValueError(f'{label} is {shown(value)}, want one of {", ".join(WEIGHT_TYPES)}')


def _word(value, label: str) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError(f'{label} is {shown(value)}, want letters, digits, dot, dash, underscore')
    return value


def _checksum(value, label: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f'{label}: sha256 must be 64 hexadecimal digits')
    return value
