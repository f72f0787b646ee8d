# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A storage device's latency table T[s]: the amortised time of one read of s KiB."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Profile:
    """T[s] = request_seconds + s * kib_seconds; Neuron Chunking, section 3.2, as one line.

    `source` says where the numbers come from: 'measured', 'assumed' or 'simulated'.
    """

    request_seconds: float
    kib_seconds: float
    saturation_kib: int
    source: str

    @classmethod
    def assumed(cls) -> 'Profile':
        """Return an ordinary NVMe drive, for storage that was never measured.

        3.5 GB/s at best, half of it with reads of 32 KiB, no gain worth having beyond 256 KiB.
        """
        kib_seconds = 1024 / 3.5e9
        return cls(32 * kib_seconds, kib_seconds, 256, 'assumed')

    def table(self, largest_kib: int) -> np.ndarray:
        """Return T for 1 to `largest_kib` KiB, float64 [largest_kib] seconds."""
        return self.request_seconds + self.kib_seconds * np.arange(1, largest_kib + 1)
