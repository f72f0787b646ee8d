# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The ways of choosing, storing and reading that accuracy is measured for."""

from __future__ import annotations

from dataclasses import dataclass

DEVICES = ('orin-nano', 'agx-orin')
# How what may be read is divided among the groups: rows as TEAL has it, rows in equal parts, or
# reading time so that the importance kept, weighted by what it is worth, is highest.
BUDGETS = ('TEAL', 'uniform', 'time')


@dataclass(frozen=True)
class Variant:
    """What decides which rows are read for a frame."""

    policy: str
    hot_cold: bool = False   # rows lie in hot-cold order on flash
    budgets: str = 'TEAL'
    falls_back: bool = True  # to reading a group whole where that is no slower ('optimal' only)
    device: str = ''         # whose simulated latency table to choose by; '' is this one

    @property
    def label(self) -> str:
        """How tables call it."""
        return ', '.join([self.policy, *(['hot-cold'] if self.hot_cold else []),
                          *([] if self.budgets == 'TEAL' else [f'{self.budgets} budgets']),
                          *([] if self.falls_back else ['no falling back'])])


@dataclass(frozen=True)
class Contestant:
    """A variant, how its rows are stored, and the reader that reads what it chooses."""

    variant: Variant
    reader: str               # 'paper' or 'ours'
    layout: str = 'bundled'   # or 'separate'

    @property
    def label(self) -> str:
        """How tables call it."""
        whose = {'paper': "the paper's reader", 'ours': 'our reader'}
        stored = '' if self.layout == 'bundled' else 'separate matrices; '
        return f'{self.variant.label}; {stored}{whose[self.reader]}'


DENSE = Variant('dense')
TOPK = Variant('topk')
FULL = Variant('optimal', hot_cold=True, budgets='time')

# The paper's: top-k with TEAL's budgets, each matrix stored by itself, its reader.
BASELINE = Contestant(TOPK, 'paper', 'separate')
OURS = Contestant(FULL, 'ours')
DENSE_OURS = Contestant(DENSE, 'ours')

# From the paper's baseline to ours, one change at a time; then ours without one part each.
ABLATION = (
    Contestant(Variant('topk', budgets='uniform'), 'paper', 'separate'),
    BASELINE,
    Contestant(TOPK, 'paper'),
    Contestant(TOPK, 'ours'),
    Contestant(Variant('topk', hot_cold=True), 'ours'),
    Contestant(Variant('greedy'), 'paper'),
    Contestant(Variant('greedy', hot_cold=True), 'paper'),
    Contestant(Variant('greedy'), 'ours'),
    Contestant(Variant('greedy', hot_cold=True), 'ours'),
    Contestant(Variant('optimal'), 'ours'),
    Contestant(Variant('optimal', hot_cold=True), 'ours'),
    OURS,
    Contestant(FULL, 'paper'),
    Contestant(Variant('optimal', budgets='time'), 'ours'),
    Contestant(Variant('optimal', hot_cold=True, budgets='uniform'), 'ours'),
    Contestant(Variant('optimal', hot_cold=True, falls_back=False), 'ours'),
    Contestant(DENSE, 'paper'),
    DENSE_OURS)

CONTESTANTS = (*ABLATION, Contestant(Variant('topk', hot_cold=True), 'paper'),
               Contestant(Variant('optimal'), 'paper'),
               Contestant(Variant('optimal', hot_cold=True), 'paper'))


def simulated(device: str) -> tuple[Contestant, ...]:
    """Return who is compared under a simulated latency table, the baseline first."""
    return (BASELINE, Contestant(TOPK, 'ours'), DENSE_OURS, *(
        Contestant(Variant(policy, order, budgets, device=device), 'ours')
        for policy, order, budgets in (
            ('greedy', True, 'TEAL'), ('optimal', True, 'TEAL'), ('optimal', True, 'time'))))
