# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the system tells about the storage that holds a folder. Reads /proc, /sys and /dev only."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = 'unknown'
MEMORY_TYPES = ('tmpfs', 'ramfs', 'rootfs')  # file systems with no storage behind them


@dataclass(frozen=True)
class DeviceFacts:
    """A folder's storage; 'unknown' where the system, or a container, does not tell."""

    file_system: str   # type, such as ext4
    mount_source: str  # what is mounted, such as /dev/nvme0n1p2
    device: str        # model or name
    uuid: str          # of the file system

    @property
    def in_memory(self) -> bool:
        """Whether the folder lies in memory, with no storage behind it."""
        return self.file_system in MEMORY_TYPES

    def same_storage(self, other: DeviceFacts) -> bool:
        """Tell whether both describe one file system.

        Device numbers change from one boot to the next, so names are compared: the UUID where
        both know it, else what is mounted and the device's model.
        """
        if self.file_system != other.file_system:
            return False
        if UNKNOWN not in (self.uuid, other.uuid):
            return self.uuid == other.uuid
        return (self.mount_source, self.device) == (other.mount_source, other.device)


def device_facts(folder: str | os.PathLike) -> DeviceFacts:
    """Return the facts of the storage that holds a folder. Raises OSError if it can't be read."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        number = os.fstat(descriptor).st_dev
        mount = _mount(descriptor)
    finally:
        os.close(descriptor)
    file_system, source = mount or (UNKNOWN, UNKNOWN)
    if os.major(number) == 0:
        number = _source_number(source)  # btrfs and its like number their volumes themselves
    return DeviceFacts(file_system, source, _model(number), _uuid(number))


def kernel() -> str:
    """Return the kernel's name and release."""
    return f'{platform.system()} {platform.release()} {platform.machine()}'


def huge_pages() -> str:
    """Return the kernel's word on transparent huge pages: 'always', 'madvise', 'never'."""
    text = _text(Path('/sys/kernel/mm/transparent_hugepage/enabled'))
    chosen = re.search(r'\[(\w+)\]', text)
    return chosen.group(1) if chosen else UNKNOWN


def _mount(descriptor: int) -> tuple[str, str] | None:
    """Return (file system type, source) of the mount that an open file belongs to."""
    found = re.search(r'^mnt_id:\s*(\d+)', _text(Path(f'/proc/self/fdinfo/{descriptor}')), re.M)
    for line in _text(Path('/proc/self/mountinfo')).splitlines() if found else ():
        # id parent major:minor root point options [optional fields] - type source options
        fields, _, rest = line.partition(' - ')
        kind, source, *_ = [*rest.split(), UNKNOWN, UNKNOWN]
        if fields.split()[0] == found.group(1):
            return kind, re.sub(r'\\([0-7]{3})', lambda code: chr(int(code.group(1), 8)), source)
    return None


def _source_number(source: str) -> int:
    try:
        return os.stat(source).st_rdev if source.startswith('/dev/') else 0
    except OSError:
        return 0


def _model(number: int) -> str:
    """Return a block device's model, else its kernel name; disks under a mapping are joined."""
    if not number:
        return UNKNOWN
    node = Path(f'/sys/dev/block/{os.major(number)}:{os.minor(number)}')
    return _disk(_whole(node.resolve())) if node.exists() else UNKNOWN


def _disk(node: Path, depth: int = 0) -> str:
    below = sorted(node.glob('slaves/*')) if depth < 8 else []
    if below:
        return ' + '.join(dict.fromkeys(_disk(_whole(disk.resolve()), depth + 1)
                                        for disk in below))
    for name in ('device/model', 'device/name'):
        text = ' '.join(_text(node / name).split())
        if text:
            return text
    driver = node / 'device' / 'driver'
    return f'{node.name} ({driver.resolve().name})' if driver.exists() else node.name


def _whole(node: Path) -> Path:
    """Return the disk that a partition is a part of, any other node as it is."""
    return node.parent if (node / 'partition').exists() else node


def _uuid(number: int) -> str:
    if number:
        try:
            for entry in os.scandir('/dev/disk/by-uuid'):
                if os.stat(entry.path).st_rdev == number:
                    return entry.name
        except OSError:  # no udev, as in containers
            pass
    return UNKNOWN


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8', errors='replace')
    except OSError:
        return ''
