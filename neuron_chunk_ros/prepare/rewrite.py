# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Writing a bundle anew: its rows in another order, stored otherwise, or cut elsewhere.

The model stays the same to the byte: going back gives the same files.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from neuron_chunk_ros.chunking.hot_cold import hot_cold_order
from neuron_chunk_ros.errors import BundleError, ModelError
from neuron_chunk_ros.families import Family, family_for
from neuron_chunk_ros.prepare.calibration_mapping import CalibrationMapping
from neuron_chunk_ros.prepare.checkpoint import Stored, read_pieces
from neuron_chunk_ros.prepare.convert import Counter, CountProgress
from neuron_chunk_ros.prepare.splits import split_of
from neuron_chunk_ros.storage.atomic import check_target
from neuron_chunk_ros.storage.bundle import Bundle, Group, GroupPlan
from neuron_chunk_ros.storage.layout import (
    EMBEDDING,
    LAYOUTS,
    LM_HEAD,
    ORDERS,
    RowOrder,
    base_name,
)
from neuron_chunk_ros.storage.packed_rows import PACKED_FORMATS, REFINEMENTS, Split
from neuron_chunk_ros.storage.side_files import SideFiles
from neuron_chunk_ros.storage.source_groups import SourceGroups
from neuron_chunk_ros.storage.verify import digest
from neuron_chunk_ros.storage.writer import BundleWriter, ResidentTensor

_PIECE_BYTES = 4 << 20


def rewrite(source: str | os.PathLike, target: str | os.PathLike, order: str | None = None,
            layout: str | None = None, progress: CountProgress | None = None,
            base: int | None = None) -> Bundle:
    """Write a bundle's copy with another row order, storage layout or cut and return it, opened.

    One group is in memory at a time. A calibration comes along.

    :param order: 'hot-cold': rows sorted by how often the calibration's samples needed them,
        visual tokens' marks (Neuron Chunking, section 4); 'original': the model's own order; None:
        as it is.
    :param layout: 'bundled' or 'separate', see convert; None: as it is.
    :param base: bits of the decoder's bases, where rows are in two parts; None: as they are. A
        fine row stays the same to the bit, which fewer bits of a base may not allow.
    :raises BundleError: for a source that can't be used, is damaged or, for hot-cold order, not
        calibrated; for rows that can't be cut so; for a target
        that can't be written. Nothing is left at the target.
    """
    for name, value, known in (('order', order, ORDERS), ('layout', layout, LAYOUTS)):
        if value is not None and value not in known:
            raise BundleError(f'{name} {value!r} is not one of {", ".join(known)}')
    bundle, target = Bundle.open(source), Path(target)
    real = Path(os.path.realpath(source))
    if real in (Path(os.path.realpath(target)), *Path(os.path.realpath(target)).parents):
        raise BundleError(f'{target} lies inside the bundle {source}: choose another place')
    check_target(target, BundleError)
    if order == 'hot-cold' and bundle.calibration is None:
        raise BundleError(f'{bundle.path}: hot-cold order needs a calibration, make one with: '
                          f'neuron-chunk calibrate {bundle.path} --images DIR')
    _check_files(bundle)
    files = SideFiles.of_bundle(bundle)
    config = files.json('config.json')
    family = family_for(config)
    plans = family.groups(config, layout or bundle.layout)
    homes = _homes(bundle, plans)
    plans = [_as_stored(bundle, plan, homes) for plan in plans]
    cuts = {} if base is None else {plan.name: _cut(bundle, plan, base) for plan in plans}
    mapping = CalibrationMapping(bundle, plans, homes)
    orders = _orders(bundle, family, plans, homes, mapping, order)
    resident = resident_of(bundle)
    tables = [plan for plan in plans_of(bundle) if plan.name not in bundle.groups]
    everything = [*(p for p in tables if p.name == EMBEDDING),
                  *(replace(p, dtype=to.refinement.name, base=to.base.name)
                    if (to := cuts.get(p.name)) else p for p in plans),
                  *(p for p in tables if p.name == LM_HEAD)]
    writer = BundleWriter(
        target, bundle.family, bundle.dtype, everything, bundle.provenance, orders=orders,
        attention=bundle.attention,
        resident_bytes=bundle.resident_bytes + files.nbytes + (64 << 20))
    count = Counter(bundle.flash_bytes + bundle.base_bytes + bundle.resident_bytes, progress)
    with writer, SourceGroups(bundle) as sources:
        writer.copy_side_files(files)
        for plan in plans:
            rows = _rows(plan, homes, sources, orders, count)
            bases = (_rows(plan, _base_homes(plan, homes), sources, orders, count)
                     if plan.base else None)
            if plan.name in cuts:
                rows, bases = _recut(bundle, plan, rows, bases, cuts[plan.name])
            writer.write_group(plan.name, rows, homes[plan.members[0].name][0].kept)
            if bases is not None:
                writer.write_group(base_name(plan.name), bases)
        for table in bundle.stored.values():
            if table.name in (EMBEDDING, LM_HEAD):
                for group in filter(None, (table, table.base)):
                    writer.write_group(group.name, sources.rows(group), table.kept)
                    count.add(group.nbytes)
        writer.write_resident(count.watch(tensor) for tensor in resident)
        if bundle.calibration is not None:
            writer.write_calibration(*mapping.translated(orders))
    return Bundle.open(target)


def _check_files(bundle: Bundle) -> None:
    """Refuse a damaged source, whose copy would get checksums that fit the damage."""
    for name, checksum in bundle.checksums.items():
        path = bundle.path / name
        if digest(path, 0, path.stat().st_size) != checksum:
            raise BundleError(f'{path}: checksum differs, the data is damaged')


def plans_of(bundle: Bundle) -> list[GroupPlan]:
    """Return the plans of everything in a bundle's flash files, as it is, in its order."""
    bases = {base.name for base in bundle.bases.values()}
    return [GroupPlan(group.name, group.rows, group.members, group.dtype, group.inputs,
                      group.base.dtype if group.base else '')
            for group in bundle.stored.values() if group.name not in bases]


def resident_of(bundle: Bundle) -> list[ResidentTensor]:
    """Return a bundle's resident tensors, to be written again."""
    return [_resident(bundle, name) for name in bundle.resident_tensors]


def _as_stored(bundle: Bundle, plan: GroupPlan, homes: dict) -> GroupPlan:
    """Return the plan in the row format of its linear layers. Raises BundleError for several."""
    formats = sorted({homes[member.name][0].rows_name for member in plan.members})
    if len(formats) > 1:
        raise BundleError(f'{bundle.path}: group {plan.name} would hold rows of '
                          f'{" and ".join(formats)}: keep its layout')
    groups = [homes[member.name][0] for member in plan.members]
    kept = {None if group.kept is None else group.kept.tobytes() for group in groups}
    if len(kept) > 1:
        raise BundleError(f'{bundle.path}: linear layers of group {plan.name} were pruned of '
                          'different rows: keep its layout')
    base = groups[0].base
    return replace(plan, dtype=groups[0].dtype, rows=groups[0].rows, inputs=groups[0].inputs,
                   base=base.dtype if base else '')


def _cut(bundle: Bundle, plan: GroupPlan, base: int) -> Split:
    """Return how a group's rows are to be cut. Raises BundleError where that is none."""
    if not plan.base:
        raise BundleError(f'{bundle.path}: rows of {plan.name} are whole; to cut them in two, '
                          'convert the model with --base')
    bits = Split(PACKED_FORMATS[plan.base], REFINEMENTS[plan.dtype]).bits
    try:
        return split_of(f'int{bits}', base)
    except ModelError as error:
        raise BundleError(f'{bundle.path}: {error}') from error


def _recut(bundle: Bundle, plan: GroupPlan, rows: Iterator[np.ndarray],
           bases: Iterator[np.ndarray], to: Split) -> tuple[Iterator[np.ndarray], ...]:
    """Return a group's refinement and base as `to` cuts them; a group is in memory."""
    before = Split(PACKED_FORMATS[plan.base], REFINEMENTS[plan.dtype])
    fine, coarse = np.concatenate(list(rows)), np.concatenate(list(bases))
    parts = []
    for first in range(0, plan.rows, most := max(1, _PIECE_BYTES // plan.columns)):
        some = slice(first, first + most)
        try:
            parts.append(before.recut(coarse[some], fine[some], plan.widths, to))
        except ValueError as error:
            raise BundleError(
                f"{bundle.path}: rows of {plan.name} can't have a base of {to.base.bits} bits "
                f'and stay the same ({error}); choose more bits, or convert the model anew'
            ) from error
    return iter([refinement for _, refinement in parts]), iter([base for base, _ in parts])


def _homes(bundle: Bundle, plans: list[GroupPlan]) -> dict[str, tuple[Group, int]]:
    """Return for each linear layer its group in the bundle and its first element in a row."""
    homes = {}
    for group in bundle.groups.values():
        element = 0
        for member in group.members:
            homes[member.name] = group, element
            element += group.format.elements(member.columns)
    wanted = {member.name: (plan.rows, member.columns) for plan in plans
              for member in plan.members}
    have = {member.name: (group.in_features, member.columns) for group in bundle.groups.values()
            for member in group.members}
    if wanted != have:
        odd = min(name for name in wanted.keys() | have.keys()
                  if wanted.get(name) != have.get(name))
        raise BundleError(f'{bundle.path}: its groups do not fit its config.json ({odd})')
    return homes


def _base_homes(plan: GroupPlan, homes: dict) -> dict[str, tuple[Group, int]]:
    """Return the same of the bases of a group's linear layers."""
    found = {}
    for member in plan.members:
        base = homes[member.name][0].base
        ahead = itertools.takewhile(lambda other: other.name != member.name,  # noqa: B023
                                    base.members)
        found[member.name] = base, sum(base.format.elements(one.columns) for one in ahead)
    return found


def _orders(bundle: Bundle, family: Family, plans: list[GroupPlan], homes: dict,
            mapping: CalibrationMapping, order: str | None) -> dict[str, RowOrder]:
    if order == 'original':
        return {}
    if order is None:
        kept = {plan.name: homes[plan.members[0].name][0].order for plan in plans}
        return {name: value for name, value in kept.items() if value is not None}
    widths = {member.name: member.columns for plan in plans for member in plan.members}
    orders = {}
    for plan in plans:
        channels = hot_cold_order(mapping.array(plan, 'visual', 'count'),
                                  mapping.array(plan, 'visual', 'importance'))
        feeders = family.feeders(plan.members[0].name) if len(plan.members) == 1 else ()
        # A bias would have to change places, too: then it is the activation that does. So it is
        # where output channels share scales.
        absorbed = all(widths.get(name) == plan.rows and not homes[name][0].format.packed
                       and f'{name}.bias' not in bundle.resident_tensors for name in feeders)
        orders[plan.name] = RowOrder(channels, feeders if absorbed else ())
    return orders


def _rows(plan: GroupPlan, homes: dict, sources: SourceGroups, orders: dict[str, RowOrder],
          count: Counter) -> Iterator[np.ndarray]:
    """Yield a group's rows in pieces, gathered from where its linear layers lie now."""
    members = [(*homes[member.name], member) for member in plan.members]
    arrays = sources.load(dict.fromkeys(group for group, _, _ in members))
    before = {group.name: group.order for group, _, _ in members}
    rows = {name: _moves(old, orders.get(plan.name)) for name, old in before.items()}
    columns = {member.name: _moves(_absorbed(member.name, sources.orders),
                                   _absorbed(member.name, orders)) for member in plan.members}
    some = arrays[members[0][0].name]
    elements = members[0][0].format.elements
    width = sum(elements(member.columns) for member in plan.members)
    most = max(1, _PIECE_BYTES // (width * some.itemsize))
    for first in range(0, plan.rows, most):
        last = min(first + most, plan.rows)
        piece = np.empty((last - first, width), some.dtype)
        left = 0
        for group, begin, member in members:
            size = elements(member.columns)
            chosen = rows[group.name]
            block = arrays[group.name][slice(first, last) if chosen is None
                                       else chosen[first:last]]
            block = block[:, begin:begin + size]
            moved = columns[member.name]
            piece[:, left:left + size] = block if moved is None else block[:, moved]
            left += size
        yield piece
        count.add(piece.nbytes)


def _absorbed(member: str, orders: dict[str, RowOrder]) -> RowOrder | None:
    """Return the order in which this linear layer's output channels lie."""
    return next((order for order in orders.values() if member in order.absorbed_by), None)


def _moves(before: RowOrder | None, after: RowOrder | None) -> np.ndarray | None:
    """Return which row (or column) of the old order stands at each place of the new one."""
    if before is None:
        return None if after is None else after.channels
    place = np.argsort(before.channels)
    if after is None:
        return place
    return None if np.array_equal(before.channels, after.channels) else place[after.channels]


def _resident(bundle: Bundle, name: str) -> ResidentTensor:
    entry = bundle.resident_tensors[name]
    return ResidentTensor(name, entry.dtype, entry.shape,
                          lambda: read_pieces(Stored(bundle.resident_file, entry)))
