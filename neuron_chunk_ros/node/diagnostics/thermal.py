# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How hot the computer and its NVMe drives are, where the system tells."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neuron_chunk_ros.node.diagnostics.thresholds import ERROR, OK, WARN, Findings, Status

# Kernels name the zones of a chip by what they measure: cpu-thermal, CPU-therm, gpu_thermal,
# cv0-thermal, soc2-thermal, tj-thermal, x86_pkg_temp. Others are told and not judged: the PMIC-Die
# of some Jetsons always says 100 °C, and a board's or a radio's limits are not the chip's.
_CHIP = re.compile(r'(big|little)?[-_]?(cpu|gpu|npu|soc|tj|cv|core|bcm\d|x86_pkg)', re.IGNORECASE)
# What a block says while it is switched off, or a drive without the limit, is no temperature.
_POSSIBLE = range(-60_000, 200_000)  # thousandths of a degree


@dataclass(frozen=True)
class Sensor:
    """One sensor; temperatures in °C."""

    name: str
    kind: str                    # 'soc', 'nvme' or 'other'
    now: float | None             # None where it can't be read: most often its block is off
    own_limits: tuple[float, ...] = ()   # where the drive slows down, where it may fail


def sensors(root: str | Path = '/sys') -> list[Sensor]:
    """Return every sensor that the kernel lists, each under a name of its own."""
    found: dict[str, Sensor] = {}
    for sensor in (*_zones(Path(root)), *_drives(Path(root))):
        name, count = sensor.name, 2
        while name in found:
            name, count = f'{sensor.name} {count}', count + 1
        found[name] = Sensor(name, sensor.kind, sensor.now, sensor.own_limits)
    return list(found.values())


def status(limits, root: str | Path = '/sys') -> Status:
    """WARN and ERROR by the hottest of the chip's sensors and of the NVMe drives.

    :param limits: has temperature_warn, temperature_error and both for NVMe [°C]; 0: no check.
    :param root: where sysfs is.
    """
    known = sensors(root)
    if not known:
        return Status(OK, 'no sensors on this machine')
    values = {}
    for sensor in known:
        values[f'{sensor.name} (°C)'] = 'off' if sensor.now is None else f'{sensor.now:.1f}'
        if sensor.own_limits:
            values[f"{sensor.name}'s own limits (°C)"] = ', '.join(
                f'{limit:.0f}' for limit in sensor.own_limits)
    found, hottest = Findings(), []
    for kind, prefix, cure in (('soc', '', ': cool it, or give it less to do'),
                               ('nvme', 'nvme_', ': cool the drive, it will slow down')):
        working = [s for s in known if s.kind == kind and s.now is not None]
        if working:
            top = max(working, key=lambda s: s.now)
            hottest.append(f'{top.name} {top.now:.0f} °C')
            found.above(top.now, f'{top.name} is at {top.now:.1f} °C', limits,
                        (ERROR, f'{prefix}temperature_error'), (WARN, f'{prefix}temperature_warn'),
                        cure=cure)
    fine = ', '.join(hottest) or f'none of {len(known)} sensors tells how hot the chip is'
    return found.status(fine, values)


def _zones(root: Path) -> Iterator[Sensor]:
    for zone in _numbered(root / 'class/thermal', 'thermal_zone'):
        name = _read(zone / 'type') or zone.name
        yield Sensor(name, 'soc' if _CHIP.match(name) else 'other', _degrees(zone / 'temp'))


def _drives(root: Path) -> Iterator[Sensor]:
    for chip in _numbered(root / 'class/hwmon', 'hwmon'):
        if _read(chip / 'name') != 'nvme':
            continue
        # The drive, such as nvme0, is what the link points to.
        name = (chip / 'device').resolve().name if (chip / 'device').exists() else chip.name
        own = (_degrees(chip / 'temp1_max'), _degrees(chip / 'temp1_crit'))
        yield Sensor(f'NVMe {name}', 'nvme', _degrees(chip / 'temp1_input'),
                     tuple(limit for limit in own if limit is not None))


def _numbered(folder: Path, prefix: str) -> list[Path]:
    """Return the folder's entries of that name, by number; none where there is no folder."""
    try:
        numbers = [e.name.removeprefix(prefix) for e in folder.iterdir()]
    except OSError:
        return []
    return [folder / f'{prefix}{n}' for n in sorted(filter(str.isdecimal, numbers), key=int)]


def _degrees(path: Path) -> float | None:
    text = _read(path)
    try:
        thousandths = int(text)
    except ValueError:
        return None
    return thousandths / 1000 if thousandths in _POSSIBLE else None


def _read(path: Path) -> str:
    """Return a file's line, '' where it can't be read.

    A Jetson's blocks answer EAGAIN while they are off, which Python's own files take for "no data
    yet" and fail on; a plain read raises it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(descriptor, 4096).decode('utf-8', 'replace').strip()
        finally:
            os.close(descriptor)
    except OSError:
        return ''
