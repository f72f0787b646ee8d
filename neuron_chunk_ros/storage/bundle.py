# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Opening a bundle: a model folder prepared for flash. Everything read is checked before use."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.storage import calibration as calibrations
from neuron_chunk_ros.storage.layout import (
    ALIGNMENT,
    BUNDLE_JSON,
    EMBEDDING,
    LM_HEAD,
    Group,
    GroupPlan,
    Member,
    base_name,
)
from neuron_chunk_ros.storage.manifest import (
    FORMAT,
    NEW_IN_3,
    NEW_IN_4,
    NEW_IN_5,
    VERSION,
    checksum,
    inside,
    is_plain_name,
    read_manifest,
    sized_file,
    want_dtype,
    want_rows,
    word,
)
from neuron_chunk_ros.storage.orders import read_orders
from neuron_chunk_ros.storage.packed_rows import Refinement
from neuron_chunk_ros.storage.row_format import STORED_FORMATS
from neuron_chunk_ros.storage.safetensors_header import TensorEntry, read_header
from neuron_chunk_ros.storage.strict_json import shown, want_keys, whole

__all__ = ['Bundle', 'Group', 'GroupPlan', 'Member']

_KEYS = {1: {'format', 'version', 'family', 'dtype', 'resident', 'files', 'groups',
             'calibration', 'provenance'}}
_KEYS[2] = _KEYS[1] | {'orders'}
_KEYS[3] = _KEYS[2] | NEW_IN_3
_KEYS[4] = _KEYS[3] | NEW_IN_4
_KEYS[5] = _KEYS[4] | NEW_IN_5  # bases are not in all
HEAD_CLASSES = 4  # see attention/templates.py
_GROUP_KEYS = {'name', 'file', 'tensor', 'offset', 'rows', 'columns', 'row_bytes', 'dtype',
               'members', 'scale', 'permutation', 'sha256'}


@dataclass(frozen=True)
class Bundle:
    """An opened, checked bundle. Holds no descriptor: files are opened by whoever reads them."""

    path: Path
    family: str
    dtype: str  # the model's: of what stays in memory, and of the rows unless they are packed
    rows: str   # the row format of the decoder's groups; 'mixed' where they differ
    groups: dict[str, Group]  # the decoder's by name, in its order
    embedding: Group | None  # the table by token, read row by row; None: it is resident
    lm_head: Group | None    # as a group, its rows always wanted; None: it is resident
    flash_files: list[Path]  # a Reader's paths; file_index(group) counts in this list
    flash_bytes: int  # of all groups and tables, without headers, padding and bases
    resident_file: Path
    resident_bytes: int  # of all resident tensors
    resident_tensors: dict[str, TensorEntry]
    resident_checksum: str
    files: dict[str, str]  # copied files: name -> sha256
    orders_file: dict | None  # file, bytes, sha256 of the row orders, where rows are reordered
    calibration: dict | None  # see calibration.py
    provenance: dict
    attention: dict | None = None  # heads: of each layer the class of each query head; about

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
            inside(folder, BUNDLE_JSON)
            return _Opening(folder, read_manifest(manifest)).bundle()
        except OSError as error:
            raise BundleError(f'{manifest}: {error.strerror}') from error
        except ValueError as error:
            raise BundleError(f'{manifest}: {error}') from error

    @property
    def layout(self) -> str:
        """'bundled' where groups hold several linear layers, 'separate' where each holds one."""
        several = any(len(group.members) > 1 for group in self.groups.values())
        return 'bundled' if several else 'separate'

    @property
    def order(self) -> str:
        """'hot-cold' where rows are reordered, else 'original'."""
        ordered = any(group.order is not None for group in self.groups.values())
        return 'hot-cold' if ordered else 'original'

    @property
    def checksums(self) -> dict[str, str]:
        """File name -> sha256 of every file but the flash files and bundle.json."""
        neurons = self.calibration and self.calibration['neurons']
        return {self.resident_file.name: self.resident_checksum, **self.files,
                **{value['file']: value['sha256'] for value in (self.orders_file, neurons)
                   if value}}

    def neurons(self) -> dict[str, np.ndarray] | None:
        """Return the calibration's arrays by calibration.tensor_name; None without one.

        Raises BundleError where they can't be read.
        """
        if self.calibration is None:
            return None
        path = self.path / self.calibration['neurons']['file']
        try:
            return calibrations.unpack(path, read_header(path, BundleError))
        except OSError as error:
            raise BundleError(f'{path}: can not be read ({error}); calibrate the bundle again'
                              ) from error

    @property
    def decoder_bytes(self) -> int:
        """Bytes of the decoder's groups."""
        return sum(group.nbytes for group in self.groups.values())

    @property
    def multiplied(self) -> dict[str, Group]:
        """The groups that a step multiplies by, in its order: the decoder's and the LM head."""
        return self.groups | ({LM_HEAD: self.lm_head} if self.lm_head else {})

    @property
    def bases(self) -> dict[str, Group]:
        """The bases of groups whose rows are in two parts, by the groups' names.

        Among them, under EMBEDDING, what stands in for the table where it can't be read.
        """
        tables = {EMBEDDING: self.embedding} if self.embedding else {}
        return {name: group.base for name, group in {**tables, **self.multiplied}.items()
                if group.base is not None}

    @property
    def base_bytes(self) -> int:
        """Bytes of all bases."""
        return sum(base.nbytes for base in self.bases.values())

    @property
    def stored(self) -> dict[str, Group]:
        """Everything in the flash files, bases among them."""
        bases = {base.name: base for base in self.bases.values()}
        return ({EMBEDDING: self.embedding} if self.embedding else {}) | self.multiplied | bases

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
        if type(version) is not int or version not in _KEYS:
            raise ValueError(f'version {shown(version)} is not one this release reads '
                             f'(it reads up to {VERSION}): convert the model again')
        keys = _KEYS[version]
        want_keys(manifest, keys if version < 5 else keys - (NEW_IN_4 - manifest.keys()),
                  'bundle.json')
        family, dtype = word(manifest['family'], 'family'), manifest['dtype']
        want_dtype(dtype, 'dtype')
        provenance = manifest['provenance']
        if not isinstance(provenance, dict):
            raise ValueError('provenance must be an object')
        resident_name, resident_sum, tensors = self.resident()
        files = self.files()
        groups = self.groups()
        tables = self.tables()
        bases = self.bases(groups, tables)
        rows = self.rows(groups, bases)
        sides = self.sides(groups)
        flash = self.flash([*groups.values(), *tables.values(), *bases.values()],
                           {resident_name, *files, *sides})
        orders, kept = read_orders(
            self.folder, manifest.get('orders'),
            {value['name']: value['permutation'] for value in manifest['groups']},
            self.kept(), {**groups, **tables})
        groups, tables = ({name: replace(group, order=orders.get(name), kept=kept.get(name))
                           for name, group in some.items()} for some in (groups, tables))
        groups, tables = ({name: group if name not in bases else replace(group, base=replace(
            bases[name], order=group.order, kept=group.kept, inputs=group.inputs))
            for name, group in some.items()} for some in (groups, tables))
        return Bundle(
            path=self.folder, family=family, dtype=dtype, rows=rows, groups=groups,
            embedding=tables.get(EMBEDDING), lm_head=tables.get(LM_HEAD),
            flash_files=[self.folder / name for name in flash],
            flash_bytes=sum(group.nbytes for group in (*groups.values(), *tables.values())),
            resident_file=self.folder / resident_name,
            resident_bytes=sum(entry.nbytes for entry in tensors.values()),
            resident_tensors=tensors, resident_checksum=resident_sum, files=files,
            orders_file=manifest.get('orders'), calibration=manifest['calibration'],
            provenance=provenance, attention=self.attention())

    def attention(self) -> dict | None:
        """Check the classes of heads."""
        value = self.manifest.get('attention')
        if value is None:
            if 'attention' in self.manifest:
                raise ValueError('attention must be an object')
            return None
        want_keys(value, {'heads', 'about'}, 'attention')
        if not isinstance(value['about'], dict):
            raise ValueError('attention: about must be an object')
        heads = value['heads']
        if (not isinstance(heads, list) or not heads
                or not all(isinstance(layer, list) and layer and len(layer) == len(heads[0])
                           for layer in heads)):
            raise ValueError('attention: heads must be a list of layers, each of as many classes')
        for number, layer in enumerate(heads):
            for kind in layer:
                if type(kind) is not int or not 0 <= kind < HEAD_CLASSES:
                    raise ValueError(f'attention: layer {number} has a class {shown(kind)}, want '
                                     f'0 to {HEAD_CLASSES - 1}')
        return value

    def resident(self) -> tuple[str, str, dict[str, TensorEntry]]:
        value = self.manifest['resident']
        path = sized_file(self.folder, value, 'resident')
        return value['file'], value['sha256'], read_header(path, BundleError)

    def sides(self, groups: dict[str, Group]) -> list[str]:
        """Check the calibration with its file; return the files beside the weights."""
        orders, calibration = self.manifest.get('orders'), self.manifest['calibration']
        names = []
        if orders is not None:
            names.append(sized_file(self.folder, orders, 'orders').name)
        if calibration is not None:
            calibrations.check(calibration)
            path = sized_file(self.folder, calibration['neurons'], 'calibration: neurons')
            calibrations.check_groups(calibration, {g.name: g.rows for g in groups.values()},
                                      read_header(path, BundleError))
            names.append(path.name)
        return names

    def files(self) -> dict[str, str]:
        files = self.manifest['files']
        if not isinstance(files, dict) or 'config.json' not in files:
            raise ValueError('files must be an object with at least config.json')
        for name, digest in files.items():
            inside(self.folder, name)
            checksum(digest, f'files: {name}')
        return dict(files)

    def groups(self) -> dict[str, Group]:
        values = self.manifest['groups']
        if not isinstance(values, list) or not values:
            raise ValueError('groups must be a list of at least one')
        groups: dict[str, Group] = {}
        members: set[str] = set()
        for index, value in enumerate(values):
            group = _group(value, f'groups[{index}]')
            if group.name in groups:
                raise ValueError(f'group {group.name} appears twice')
            if group.name in (EMBEDDING, LM_HEAD):
                raise ValueError(f'group {group.name} is none of the decoder')
            for member in group.members:
                if member.name in members:
                    raise ValueError(f'group {group.name}: member {member.name} appears twice')
                members.add(member.name)
            groups[group.name] = group
        return groups

    def kept(self) -> dict[str, str]:
        """Return the tensor of the channels kept, by group, of those that were pruned."""
        described = [*self.manifest['groups'], self.manifest.get(LM_HEAD) or {}]
        found = {value['name']: value['kept'] for value in described if 'kept' in value}
        if found and self.manifest['version'] < 3:
            raise ValueError(f'group {min(found)}: kept is not known in version '
                             f'{self.manifest["version"]}')
        return {name: word(value['tensor'], f'group {name}: kept') for name, value in
                found.items()}

    def bases(self, groups: dict[str, Group], tables: dict[str, Group]) -> dict[str, Group]:
        """Return the bases by their groups' names.

        Each refinement has one, the embedding table may, nothing else has.
        """
        values = self.manifest.get('bases', [])
        if not isinstance(values, list) or ('bases' in self.manifest and not values):
            raise ValueError('bases must be a list of at least one')
        found = {}
        for index, value in enumerate(values):
            base = _group(value, f'bases[{index}]')
            found[base.name] = base
            if not base.format.packed or base.format.bits == 8:
                raise ValueError(f'{base.name}: rows of {base.dtype} are no base')
            if value['permutation'] is not None or base.inputs:
                raise ValueError(f'{base.name}: its order is that of its refinement')
        bases = {}
        for name, group in {**groups, **tables}.items():
            refined = isinstance(group.format, Refinement)
            base = found.pop(base_name(name), None) if refined or name == EMBEDDING else None
            if base is None:
                if refined:
                    raise ValueError(f'group {name}: rows of {group.dtype} need a base')
                continue
            bases[name] = base
            if (base.rows, base.members) != (group.rows, group.members):
                raise ValueError(f'{base.name}: rows and members differ from those of {name}')
            if isinstance(base.format, Refinement) or (
                    refined and base.format.bits + group.format.bits > 8):
                raise ValueError(f'{base.name}: {base.dtype} and {group.dtype} are no row')
        if found:
            raise ValueError(f'{min(found)}: no group has this base')
        return bases

    def rows(self, groups: dict[str, Group], bases: dict[str, Group]) -> str:
        """Hold the groups' formats against what the bundle says; return what it says."""
        formats = {replace(group, base=bases.get(name)).rows_name
                   for name, group in groups.items()}
        found = formats.pop() if len(formats) == 1 else 'mixed'
        if self.manifest['version'] < 3:
            said, label = self.manifest['dtype'], 'dtype'
        else:
            said, label = self.manifest['rows'], 'rows'
        if said != found:
            raise ValueError(f'{label} is {shown(said)}, but the groups are {found}')
        return found

    def tables(self) -> dict[str, Group]:
        """Return the embedding table and the LM head, where they are on flash."""
        tables = {}
        for name in (EMBEDDING, LM_HEAD):
            value = self.manifest.get(name)
            if value is None:
                continue
            group = tables[name] = _group(value, name)
            if group.name != name or len(group.members) != 1 or value['permutation'] is not None:
                raise ValueError(f'{name}: want a group of this name, of one member, unordered')
        if EMBEDDING in tables and (tables[EMBEDDING].format.packed or tables[EMBEDDING].inputs):
            raise ValueError(f'{EMBEDDING}: packed or pruned rows can not be looked up')
        return tables

    def flash(self, groups: list[Group], taken: set[str]) -> list[str]:
        """Hold the groups against the flash files' own headers; returns the files in order."""
        headers: dict[str, dict[str, TensorEntry]] = {}
        used: set[tuple[str, str]] = set()
        for group in groups:
            if group.file in taken:
                raise ValueError(f'group {group.name}: {group.file} is not a flash file')
            if group.file not in headers:
                path = inside(self.folder, group.file)
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
            made = group.format
            shape = group.rows, sum(made.elements(width) for width in group.widths)
            if (entry.dtype, entry.shape) != (made.tag, shape):
                raise ValueError(f'group {group.name}: {group.file} holds {entry.dtype} '
                                 f'{list(entry.shape)}, want {made.tag} {list(shape)}')
        for file, header in headers.items():
            for tensor in header:
                if (file, tensor) not in used and not tensor.startswith('__pad.'):
                    raise ValueError(f'{file}: tensor {shown(tensor)} belongs to no group')
        return list(headers)


def _group(value, label: str) -> Group:
    pruned = isinstance(value, dict) and 'kept' in value
    want_keys(value, _GROUP_KEYS | ({'kept'} if pruned else set()), label)
    name = word(value['name'], f'{label}: name')
    label = f'group {name}'
    want_rows(value['dtype'], f'{label}: dtype')
    if not is_plain_name(value['file']):
        raise ValueError(f'{label}: file {shown(value["file"])} is not a plain file name')
    if value['scale'] is not None:
        raise ValueError(f'{label}: scale is not read by this release')
    if not isinstance(value['members'], list) or not value['members']:
        raise ValueError(f'{label}: members must be a list of at least one')
    members = []
    for member in value['members']:
        want_keys(member, {'name', 'columns'}, f'{label}: a member')
        members.append(Member(word(member['name'], f'{label}: a member'),
                              whole(member['columns'], f"{label}: a member's columns", 1)))
    rows, columns, row_bytes, offset = (
        whole(value[key], f'{label}: {key}', least)
        for key, least in (('rows', 1), ('columns', 1), ('row_bytes', 1), ('offset', 0)))
    if sum(member.columns for member in members) != columns:
        raise ValueError(f"{label}: the members' columns do not sum to {columns}")
    made = STORED_FORMATS[value['dtype']]
    if row_bytes != made.row_bytes([member.columns for member in members]):
        raise ValueError(f'{label}: row_bytes {row_bytes} do not fit {columns} columns')
    if offset % ALIGNMENT:
        raise ValueError(f'{label}: offset {offset} is not a multiple of {ALIGNMENT}')
    inputs = 0
    if pruned:
        want_keys(value['kept'], {'tensor', 'of'}, f'{label}: kept')
        inputs = whole(value['kept']['of'], f'{label}: kept: of', rows + 1)
    return Group(name, value['file'], word(value['tensor'], f'{label}: tensor'), offset, rows,
                 columns, row_bytes, value['dtype'], tuple(members),
                 checksum(value['sha256'], label), inputs=inputs)
