# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How much of each group to skip so that the whole decoder skips what the user asked for."""

from __future__ import annotations

import math

import numpy as np

from neuron_chunk_ros.storage import calibration as stored


class Budgets:
    """Sparsity of each group for a wanted parameter-weighted sparsity of the decoder.

    The tables come from TEAL's block-wise greedy allocation (arXiv 2408.14690, section 4.3; see
    teal.py). Weighted by their parameters, the groups' sparsities of each block average to what
    is wanted.
    """

    def __init__(self, levels: np.ndarray | None = None,
                 tables: dict[tuple[str, str], np.ndarray] | None = None,
                 worths: dict[tuple[str, str], float] | None = None):
        """Use `uniform` or `from_calibration`."""
        self._levels, self._tables, self._worths = levels, tables, worths or {}

    @classmethod
    def uniform(cls) -> Budgets:
        """Give every group the wanted sparsity itself."""
        return cls()

    @classmethod
    def from_calibration(cls, calibration: dict | None) -> Budgets:
        """Take the tables of a bundle's calibration, uniform where there is none.

        :raises ValueError: for a malformed calibration, in one line.
        """
        if calibration is None:
            return cls.uniform()
        stored.check(calibration)
        # skipping everything is everyone's whole budget: the tables end there
        levels = np.array([*calibration['levels'], 1.0])
        tables = {(name, kind): table for name, kinds in calibration['groups'].items()
                  for kind, table in kinds.items()}
        return cls(levels,
                   {key: np.array([*table['sparsity'], 1.0]) for key, table in tables.items()},
                   {key: _worth(table) for key, table in tables.items()})

    @property
    def calibrated(self) -> bool:
        """Whether there are tables."""
        return self._tables is not None

    def sparsity(self, group_name: str, kind: str, wanted: float) -> float:
        """Return the fraction of this group's rows to skip, in [0, 1).

        Linear between the table's levels, and from its last one to 1.

        :param kind: 'visual', 'text' or 'decode'; decoding uses the text's table.
        :param wanted: parameter-weighted sparsity of the decoder, in [0, 1).
        :raises ValueError: for another kind, a group without a table, `wanted` out of range.
        """
        if not 0 <= wanted < 1:
            raise ValueError(f'sparsity is {wanted}: it must be at least 0 and below 1')
        kind = _table_kind(kind)
        if self._tables is None:
            return float(wanted)
        if (group_name, kind) not in self._tables:
            raise ValueError(f'the calibration has no group {group_name}')
        found = np.interp(wanted, self._levels, self._tables[group_name, kind])
        return float(min(found, np.nextafter(1, 0)))  # rounding may reach 1

    def worth(self, group_name: str, kind: str) -> float:
        """Return what a share of this group's importance is worth beside other groups'.

        The error that skipping half of the rows made when the bundle was calibrated, per share of
        importance skipped; 1 for every group where there is no calibration.

        :raises ValueError: for another kind.
        """
        return self._worths.get((group_name, _table_kind(kind)), 1.0)


def _table_kind(kind: str) -> str:
    kind = 'text' if kind == 'decode' else kind
    if kind not in stored.KINDS:
        raise ValueError(f"unknown kind of token '{kind}'")
    return kind


def _worth(table: dict) -> float:
    # The share that the less important half holds follows from the coefficient of variation, as
    # if importance were lognormal.
    sigma = math.sqrt(2 * math.log(math.hypot(1, table['variation'])))  # its square may overflow
    lesser_half = 0.5 * math.erfc(sigma / math.sqrt(2))
    return max(table['sensitivity'], 1e-6) / max(lesser_half, 1e-3)
