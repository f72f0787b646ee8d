# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A storage device's latency table T[s]: the amortised time of one read of s KiB.

Neuron Chunking, section 3.2. T is kept as two lines that meet: small reads cost by the request,
large ones by the byte, and one line through both misses the middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

PROFILE_JSON = 'storage-profile.json'
SOURCES = ('measured', 'assumed', 'simulated')

# The devices of Neuron Chunking, section 5: peak [bytes/s], the KiB that reach 99 % of it.
_SIMULATED = {'agx-orin': (7450e6, 236), 'orin-nano': (3500e6, 348)}
_HALF_PEAK_KIB = 74  # on both
MOST_SATURATION_KIB = 1 << 20  # a line is fitted through all sizes up to it


class Line(NamedTuple):
    """Seconds for one read of s KiB: request_seconds + s * kib_seconds."""

    request_seconds: float
    kib_seconds: float

    def at(self, kib):
        """Return the seconds of one read of `kib` KiB, a number or an array."""
        return self.request_seconds + self.kib_seconds * kib


@dataclass(frozen=True)
class Profile:
    """T(s): `low` up to `knee_kib`, `high` beyond; rising, continuous at the knee.

    `source` says where the numbers come from: 'measured', 'assumed' or 'simulated'; `about` how,
    where and when they were measured.
    """

    low: Line
    high: Line
    knee_kib: float
    saturation_kib: int          # smallest size with 99 % of the peak throughput
    batch_seconds: float         # what a batch takes beyond the sum of its T: starting up
    source: str
    sizes_kib: tuple[int, ...] = ()     # what was measured, ascending; empty where nothing was
    seconds_per_read: tuple[float, ...] = ()   # T at these sizes, medians
    quartiles: tuple[tuple[float, float], ...] = ()   # lower and upper, of each of these
    about: dict[str, str | int | float] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        """Check the numbers. Raises ValueError."""
        _check(self)

    @classmethod
    def assumed(cls) -> Profile:
        """Return an ordinary NVMe drive, for storage that was never measured.

        3.5 GB/s at best, half of it with reads of 32 KiB, no gain worth having beyond 256 KiB.
        """
        kib_seconds = 1024 / 3.5e9
        line = Line(32 * kib_seconds, kib_seconds)
        return cls(line, line, 256, 256, 0.0, 'assumed')

    @classmethod
    def simulated(cls, name: str) -> Profile:
        """Return a model of one of the paper's devices: 'agx-orin' or 'orin-nano'.

        Neuron Chunking gives three figures for each: the peak throughput, the 74 KiB that reach
        half of it, and the size that reaches 99 % (AGX Orin: 7450 MB/s, 236 KiB; Orin Nano:
        3500 MB/s, 348 KiB). Two lines that meet at the third size are fixed by them: the lower
        runs through the two points, the upper goes on from there at the peak's price per KiB. It
        is a model built from published figures, not a measurement; results got from it are to
        be called simulated. What starting a batch takes is not known and left at zero.

        :raises ValueError: for another name.
        """
        if name not in _SIMULATED:
            raise ValueError(f"unknown device '{name}': choose one of {', '.join(_SIMULATED)}")
        peak, saturation = _SIMULATED[name]
        kib_seconds = 1024 / peak
        half, full = 2 * _HALF_PEAK_KIB * kib_seconds, saturation * kib_seconds / 0.99
        slope = (full - half) / (saturation - _HALF_PEAK_KIB)
        low = Line(half - slope * _HALF_PEAK_KIB, slope)
        high = Line(full - saturation * kib_seconds, kib_seconds)
        return cls(low, high, saturation, saturation, 0.0, 'simulated', about={'device': name})

    def seconds(self, kib: np.ndarray) -> np.ndarray:
        """Return T, float64 like `kib`: seconds of one read of that many KiB, amortised."""
        kib = np.asarray(kib, np.float64)
        return np.where(kib <= self.knee_kib, self.low.at(kib), self.high.at(kib))

    def table(self, largest_kib: int) -> np.ndarray:
        """Return T for 1 to `largest_kib` KiB, float64 [largest_kib] seconds."""
        return self.seconds(np.arange(1, largest_kib + 1))

    def estimate(self, nbytes: np.ndarray) -> float:
        """Return the seconds that one batch of reads of these lengths [bytes] takes."""
        nbytes = np.asarray(nbytes)
        if not nbytes.size:
            return 0.0
        return self.batch_seconds + float(self.seconds(nbytes / 1024).sum())

    @cached_property
    def line(self) -> Line:
        """The straight line nearest to T, by relative error over 1 to `saturation_kib` KiB."""
        kib = np.arange(1, max(2, self.saturation_kib) + 1, dtype=np.float64)
        weight = 1 / self.seconds(kib)
        columns = np.stack([weight, kib * weight], axis=1)
        request, slope = np.linalg.lstsq(columns, np.ones(len(kib)), rcond=None)[0]
        # Where one of the two would be negative, the best line has it at zero.
        if request < 0:
            request, slope = 0.0, columns[:, 1].sum() / (columns[:, 1] ** 2).sum()
        elif slope < 0:
            request, slope = columns[:, 0].sum() / (columns[:, 0] ** 2).sum(), 0.0
        return Line(float(request), float(slope))


def _check(profile: Profile) -> None:
    low, high = profile.low, profile.high
    numbers = (*low, *high, profile.knee_kib, profile.saturation_kib, profile.batch_seconds,
               *profile.sizes_kib, *profile.seconds_per_read,
               *(number for pair in profile.quartiles for number in pair))
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError('a number is not finite')
    if min(*low, *high, profile.batch_seconds) < 0:
        raise ValueError('a time is negative')
    if profile.knee_kib <= 0 or profile.saturation_kib < 1:
        raise ValueError('the knee and the saturation size must be positive')
    if profile.saturation_kib > MOST_SATURATION_KIB:
        raise ValueError(f'the saturation size is {profile.saturation_kib} KiB, at most '
                         f'{MOST_SATURATION_KIB} are believed')
    if low.at(1) <= 0 or high.at(profile.knee_kib) <= 0:
        raise ValueError('reading must take time')
    if not math.isclose(low.at(profile.knee_kib), high.at(profile.knee_kib), rel_tol=1e-6):
        raise ValueError('the two lines do not meet at the knee')
    if profile.source not in SOURCES:
        raise ValueError(f'source is none of {", ".join(SOURCES)}')
    sizes = profile.sizes_kib
    if not len(sizes) == len(profile.seconds_per_read) == len(profile.quartiles):
        raise ValueError('as many times and quartiles as sizes are needed')
    if any(a >= b for a, b in zip((0, *sizes), sizes, strict=False)):
        raise ValueError('sizes must be positive and ascending')
    for median, (lower, upper) in zip(profile.seconds_per_read, profile.quartiles, strict=True):
        if not 0 < lower <= median <= upper:
            raise ValueError('a measured time is not positive or not between its quartiles')
