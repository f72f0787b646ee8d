# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What compressing did: bits, bytes, errors, answers, what is float; as text and plain values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from neuron_chunk_ros.compress.exam import Answers


@dataclass
class GroupReport:
    """What became of a group."""

    name: str
    bits: int             # of its integers; 0: it stays as it was
    rows: int
    rows_pruned: int
    weights_zero: float   # share of the weights
    nbytes: int
    nbytes_before: int
    error: float          # of the outputs on the calibration's tokens, relative L2; NaN: unknown


def kind_of(group: str) -> str:
    """Return a group's name without its layer's number."""
    return re.sub(r'\.\d+\.', '.*.', group)


@dataclass
class Report:
    """What became of a bundle."""

    recipe: str
    tokens: int
    groups: list[GroupReport] = field(default_factory=list)
    answers: Answers | None = None

    def kinds(self) -> dict[str, list[GroupReport]]:
        """Return the groups by kind, in the model's order."""
        kinds: dict[str, list[GroupReport]] = {}
        for group in self.groups:
            kinds.setdefault(kind_of(group.name), []).append(group)
        return kinds

    def text(self) -> str:
        """Return a line for each sort of group, and the whole."""
        lines = [f'{"groups":<18} {"bits":>4} {"bytes":>6} {"zeros":>6} {"error":>8} {"worst":>8}']
        for kind, members in [*self.kinds().items(), ('all', self.groups)]:
            bits = {group.bits or 16 for group in members}
            share = sum(g.nbytes for g in members) / sum(g.nbytes_before for g in members)
            errors = [group.error for group in members]
            lines.append(
                f'{kind:<18} {bits.pop() if len(bits) == 1 else "-":>4} {share:>6.3f} '
                f'{np.mean([group.weights_zero for group in members]):>6.3f} '
                f'{np.sqrt(np.mean(np.square(errors))):>8.4f} {max(errors):>8.4f}')
        lines += [f"recipe {self.recipe}, {self.tokens} tokens; bytes: of the source's; error: of "
                  'the outputs, relative',
                  'in float: norms, attention, activations and the vision part, as in the source; '
                  'integers are rows alone (a recipe with fixed_point converts everything)']
        return '\n'.join(lines + ([self.answers.text()] if self.answers else []))

    def record(self) -> dict:
        """Return it as plain values."""
        return {'recipe': self.recipe, 'tokens': self.tokens,
                'groups': [vars(group) for group in self.groups],
                'answers': self.answers and self.answers.record()}


@dataclass
class IntegerReport:
    """What became of a model of integers alone."""

    recipe: str
    operations: dict[str, int]        # by kind
    accumulator_bits: int             # the most that any sum needs
    in_float: dict[str, int]          # operations done in float, by name
    left: list[str]                   # modules whose parameters are rounded where they are met
    train_differs: float              # integer against training path, largest code of the logits
    logits_error: float               # integer path against the model, relative
    errors: dict[str, float]          # of each module's outputs against the model's, relative L2
    bits: dict[str, tuple[int, int]]  # of weights and of what they multiply, by module
    nbytes: int                       # of weights and biases
    nbytes_before: int
    answers: Answers | None = None

    def text(self) -> str:
        """Return it as lines."""
        kinds = ', '.join(f'{count} {kind}' for kind, count in sorted(self.operations.items()))
        floats = ', '.join(f'{name} ({count})' for name, count in self.in_float.items())
        sorts = ', '.join(f'{weights} x {values} bits ({count})' for (weights, values), count in
                          sorted(_count(self.bits.values()).items()))
        worst = max(self.errors, key=self.errors.get)
        lines = [
            f'recipe {self.recipe}: {kinds}',
            f'products: {sorts}; {self.nbytes / self.nbytes_before:.3f} of the bytes',
            f'sums need at most {self.accumulator_bits} bits of 32',
            f'in float: {floats or "nothing"}',
            f'constants rounded where they are met, of: {", ".join(self.left) or "none"}',
            f'outputs of a module: {np.median([*self.errors.values()]):.4f} off (median, '
            f'relative), worst {self.errors[worst]:.4f} ({worst})',
            f'logits: integer path against training path {self.train_differs:g} codes at '
            f'most, against the model {self.logits_error:.4f} relative']
        return '\n'.join(lines + ([self.answers.text()] if self.answers else []))

    def record(self) -> dict:
        """Return it as plain values."""
        return {**vars(self), 'answers': self.answers and self.answers.record()}


def _count(values) -> dict:
    counts: dict = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts
