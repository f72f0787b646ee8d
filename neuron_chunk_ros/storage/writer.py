# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writing a bundle: laid out before the first byte, written group by group, atomic."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.storage.atomic import AtomicFolder, write_all, write_file
from neuron_chunk_ros.storage.calibration import FILE_PATTERN, complete, pack
from neuron_chunk_ros.storage.layout import (
    BUNDLE_JSON,
    EMBEDDING,
    LM_HEAD,
    ORDERS_FILE,
    RESIDENT_FILE,
    GroupPlan,
    RowOrder,
    base_name,
)
from neuron_chunk_ros.storage.manifest import FORMAT, dump_manifest, is_plain_name
from neuron_chunk_ros.storage.orders import describe_order, kept_name
from neuron_chunk_ros.storage.packed_rows import Split
from neuron_chunk_ros.storage.row_format import (
    ROW_FORMATS,
    STORED_FORMATS,
    PackedFormat,
    Refinement,
    RowFormat,
)
from neuron_chunk_ros.storage.safetensors_header import ITEM_BYTES, TensorEntry, plan_header
from neuron_chunk_ros.storage.side_files import SideFiles

MAX_SHARD_BYTES = (4 << 30) - (128 << 20)  # with its header a file stays below FAT32's limit


@dataclass(frozen=True)
class ResidentTensor:
    """A tensor that stays in memory; data is bytes-like or a function that yields its pieces."""

    name: str
    dtype: str  # by safetensors' name
    shape: tuple[int, ...]
    data: Any | Callable[[], Iterable]


@dataclass
class _Shard:
    name: str
    header: bytes
    entries: dict[str, TensorEntry]

    @property
    def nbytes(self) -> int:
        return max(entry.end for entry in self.entries.values())


class BundleWriter:
    """Context manager that writes one bundle; nothing is left behind if its body raises.

    Every planned group must be written once, in any order, then the resident tensors, and at
    least config.json copied. Raises BundleError for what doesn't fit the plan, an existing
    target, too little space.
    """

    def __init__(self, target: Path, family: str, dtype: str, groups: Sequence[GroupPlan],
                 provenance: dict, *, resident_bytes: int = 0,
                 max_shard_bytes: int = MAX_SHARD_BYTES,
                 orders: Mapping[str, RowOrder] | None = None,
                 attention: dict | None = None):
        """Lay the files out.

        dtype: of what stays in memory, and of rows unless their plan says otherwise. Plans named
        EMBEDDING and LM_HEAD are the tables of words. A plan with a base is of two groups: what
        layout.base_name calls the base is written like any other.
        resident_bytes: what resident tensors and copied files need, for the space check.
        orders: by group, where its rows are not written in the model's own order.
        attention: classes of heads, as Bundle.attention has them.
        """
        if dtype not in ROW_FORMATS:
            raise BundleError(f'dtype {dtype!r} is not one of {", ".join(ROW_FORMATS)}')
        self._bases = {plan.name: replace(plan, name=base_name(plan.name), dtype=plan.base,
                                          inputs=0, base='') for plan in groups if plan.base}
        every = [*groups, *self._bases.values()]
        self._plans = {plan.name: plan for plan in every}
        self._decoder = [plan for plan in groups if plan.name not in (EMBEDDING, LM_HEAD)]
        if len(self._plans) != len(every) or not self._decoder:
            raise BundleError('a bundle needs at least one group, each with its own name')
        for plan in every:
            if plan.dtype and plan.dtype not in STORED_FORMATS:
                raise BundleError(f'group {plan.name}: rows {plan.dtype!r} are not one of '
                                  f'{", ".join(STORED_FORMATS)}')
        self._family, self._dtype, self._provenance = family, dtype, provenance
        self._shards = self._lay_out(max_shard_bytes)
        self._home = {name: shard for shard in self._shards
                      for name in shard.entries if name in self._plans}
        self.flash_file_bytes = sum(shard.nbytes for shard in self._shards)
        self._folder = AtomicFolder(target, self.flash_file_bytes + resident_bytes)
        self._descriptors: dict[str, int] = {}
        self._checksums: dict[str, str] = {}
        self._resident: dict | None = None
        self._files: dict[str, str] = {}
        self._orders = dict(orders or {})
        self._kept: dict[str, np.ndarray] = {}
        self._calibration: dict | None = None
        self._attention = attention

    def __enter__(self) -> BundleWriter:
        self._folder.__enter__()
        try:
            for shard in self._shards:
                self._create(shard)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, kind, value, traceback) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException as error:
            kind, value, traceback = type(error), error, error.__traceback__
            raise
        finally:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()
            self._folder.__exit__(kind, value, traceback)

    def write_group(self, name: str, rows: np.ndarray | Iterable[np.ndarray],
                    kept: np.ndarray | None = None) -> None:
        """Write a group's rows, in one array or several: [rows, columns], bfloat16 as uint16.

        Packed ones are uint8 [rows, row bytes]. kept: int32 [rows], ascending: the input's
        channels that have a row, where the plan has fewer rows than inputs.
        """
        plan = self._plans.get(name)
        if plan is None or name in self._checksums:
            raise BundleError(f'group {name!r} is not planned or already written')
        if (kept is not None) != bool(plan.inputs) or (kept is not None and (
                len(kept) != plan.rows or kept[0] < 0 or kept[-1] >= plan.inputs
                or (np.diff(kept) <= 0).any())):
            raise BundleError(f'group {name}: {plan.rows} rows of {plan.in_features} inputs, but '
                              'not which')
        if kept is not None:
            self._kept[name] = np.ascontiguousarray(kept, np.int32)
        shard = self._home[name]
        begin, checksum, count = shard.entries[name].begin, hashlib.sha256(), 0
        for array in (rows,) if isinstance(rows, np.ndarray) else rows:
            count += len(array)
            if (array.shape[1:] != self._shape(plan)[1:] or count > plan.rows
                    or not self._format(plan).carries(array)):
                raise self._unfit(plan, array)
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            begin += write_all(self._descriptors[shard.name], data, begin)
            checksum.update(data)
        if count != plan.rows:
            raise BundleError(f'group {name}: got {count} rows, want {plan.rows}')
        self._checksums[name] = checksum.hexdigest()

    def _unfit(self, plan: GroupPlan, array: np.ndarray) -> BundleError:
        return BundleError(f'group {plan.name}: got {array.dtype} {list(array.shape)}, '
                           f'want {self._format(plan).name} {list(self._shape(plan))}')

    def _format(self, plan: GroupPlan) -> RowFormat | PackedFormat | Refinement:
        return STORED_FORMATS[plan.dtype or self._dtype]

    def _shape(self, plan: GroupPlan) -> tuple[int, int]:
        return plan.rows, sum(self._format(plan).elements(width) for width in plan.widths)

    def write_resident(self, tensors: Iterable[ResidentTensor]) -> None:
        """Write resident.safetensors; a tensor's pieces are asked for one after another."""
        # wide elements first: every tensor then lies on a multiple of its element size
        ordered = sorted(tensors, key=lambda tensor: -ITEM_BYTES[tensor.dtype])
        names = [tensor.name for tensor in ordered]
        if self._resident is not None or len(set(names)) != len(names):
            raise BundleError('resident tensors are written once, each with its own name')
        header, entries = plan_header(
            ((tensor.name, tensor.dtype, tensor.shape) for tensor in ordered), align_each=False)
        checksum = hashlib.sha256()

        def pieces():
            checksum.update(header)
            yield header
            for tensor in ordered:
                size = 0
                for piece in tensor.data() if callable(tensor.data) else (tensor.data,):
                    view = memoryview(piece).cast('B')
                    size += len(view)
                    checksum.update(view)
                    yield view
                if size != entries[tensor.name].nbytes:
                    raise BundleError(f'resident tensor {tensor.name}: got {size} bytes, '
                                      f'want {entries[tensor.name].nbytes}')

        size = write_file(self._folder.folder / RESIDENT_FILE, pieces())
        self._resident = {'file': RESIDENT_FILE, 'bytes': size, 'sha256': checksum.hexdigest()}

    def copy_file(self, path: Path) -> None:
        """Copy a small file (config, tokenizer, processor) as it is, under its own name."""
        path = Path(path)
        self.write_side_file(path.name, path.read_bytes())

    def copy_side_files(self, files: SideFiles) -> None:
        """Copy all of a model's or bundle's. Raises BundleError, ModelError."""
        for name in files:
            self.write_side_file(name, files.read(name))

    def write_side_file(self, name: str, data: bytes) -> None:
        """Write a small file."""
        taken = name in (BUNDLE_JSON, RESIDENT_FILE, ORDERS_FILE)
        if not is_plain_name(name) or taken or FILE_PATTERN.fullmatch(name):
            raise BundleError(f'{name!r} cannot be the name of a file in a bundle')
        write_file(self._folder.folder / name, [data])
        self._files[name] = hashlib.sha256(data).hexdigest()

    def write_calibration(self, calibration: dict, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a calibration (see calibration.py); its `neurons` are filled in here."""
        self._calibration, data = complete(calibration, arrays)
        write_file(self._folder.folder / self._calibration['neurons']['file'], [data])

    def _lay_out(self, limit: int) -> list[_Shard]:
        bases = list(self._bases.values())
        rest = [plan for plan in self._plans.values() if plan not in bases]
        return [*self._shards_of(rest, limit, 'flash'), *self._shards_of(bases, limit, 'base')]

    def _shards_of(self, plans: list[GroupPlan], limit: int, kind: str) -> list[_Shard]:
        batches: list[list[GroupPlan]] = []
        size = 0
        for plan in plans:
            nbytes = plan.rows * self._format(plan).row_bytes(plan.widths)
            if not batches or size + nbytes > limit:
                batches.append([])
                size = 0
            batches[-1].append(plan)
            size += nbytes
        shards = []
        for index, batch in enumerate(batches, 1):
            header, entries = plan_header(
                ((plan.name, self._format(plan).tag, self._shape(plan)) for plan in batch),
                align_each=True)
            shards.append(_Shard(f'{kind}-{index:05d}-of-{len(batches):05d}.safetensors',
                                 header, entries))
        return shards

    def _create(self, shard: _Shard) -> None:
        path = self._folder.folder / shard.name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._descriptors[shard.name] = descriptor
        write_all(descriptor, shard.header, 0)
        # sparse until written: padding reads as zeros, and the space check has been made
        os.ftruncate(descriptor, shard.nbytes)

    def _finish(self) -> None:
        missing = self._plans.keys() - self._checksums.keys()
        if missing or self._resident is None or 'config.json' not in self._files:
            what = (f'group {min(missing)}' if missing else
                    'the resident tensors' if self._resident is None else 'config.json')
            raise BundleError(f'{self._folder.target}: {what} was never written')
        formats = {self._rows_name(plan) for plan in self._decoder}
        rows = formats.pop() if len(formats) == 1 else 'mixed'
        tables = {name: self._describe(self._plans[name]) if name in self._plans else None
                  for name in (EMBEDDING, LM_HEAD)}
        is_newer = rows != self._dtype or any(tables.values()) or self._kept
        newer = {'rows': rows, **tables} if is_newer else {}
        manifest = {
            'format': FORMAT, 'family': self._family, 'dtype': self._dtype, **newer,
            'resident': self._resident, 'files': self._files, 'orders': self._write_orders(),
            'groups': [self._describe(plan) for plan in self._decoder],
            **({'bases': [self._describe(plan) for plan in self._bases.values()]}
               if self._bases else {}),
            'calibration': self._calibration, 'provenance': self._provenance,
            **({'attention': self._attention} if self._attention else {}),
        }
        write_file(self._folder.folder / BUNDLE_JSON, [dump_manifest(manifest)])

    def _rows_name(self, plan: GroupPlan) -> str:
        if not plan.base:
            return self._format(plan).name
        return Split(STORED_FORMATS[plan.base], self._format(plan)).name

    def _write_orders(self) -> dict | None:
        if not self._orders and not self._kept:
            return None
        data = pack({name: order.channels for name, order in self._orders.items()}
                    | {kept_name(name): channels for name, channels in self._kept.items()})
        write_file(self._folder.folder / ORDERS_FILE, [data])
        return {'file': ORDERS_FILE, 'bytes': len(data),
                'sha256': hashlib.sha256(data).hexdigest()}

    def _describe(self, plan: GroupPlan) -> dict:
        shard, order = self._home[plan.name], self._orders.get(plan.name)
        return {
            'name': plan.name, 'file': shard.name, 'tensor': plan.name,
            'offset': shard.entries[plan.name].begin, 'rows': plan.rows, 'columns': plan.columns,
            'row_bytes': self._format(plan).row_bytes(plan.widths),
            'dtype': self._format(plan).name,
            'members': [{'name': m.name, 'columns': m.columns} for m in plan.members],
            'scale': None, 'permutation': order and describe_order(plan.name, order),
            **({'kept': {'tensor': kept_name(plan.name), 'of': plan.inputs}}
               if plan.inputs else {}),
            'sha256': self._checksums[plan.name],
        }
