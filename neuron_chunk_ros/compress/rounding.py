# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Quantisers that come along: how far a grid reaches, and which way weights are rounded."""

from __future__ import annotations

import os

import numpy as np
import torch

from neuron_chunk_ros.compress.algorithms import QUANTISERS, Linear, Quantiser, make, quantiser
from neuron_chunk_ros.compress.grids import Grid

_SHRINKS = np.linspace(0.7, 1.05, 15)
_SOME = 1 << 22  # values at once


@quantiser('minmax')
class MinMax(Quantiser):
    """The grid reaches as far as the values do."""


@quantiser('percentile')
class Percentile(Quantiser):
    """The grid reaches as far as this share of the values; what is beyond is clipped."""

    def __init__(self, share: float = 0.999):
        if not 0 < share <= 1:
            raise ValueError(f'share {share}: want more than 0 and at most 1')
        self.share = share

    def ends(self, values: np.ndarray, grid: Grid) -> np.ndarray:
        """See Quantiser."""
        return -np.quantile(np.abs(values), self.share, axis=1).astype(np.float32)


@quantiser('mse')
class LeastSquares(Quantiser):
    """The grid reaches where the squared error is least; a little clipping can pay."""

    def ends(self, values: np.ndarray, grid: Grid) -> np.ndarray:
        """See Quantiser."""
        whole = super().ends(values, grid)
        best, found = np.full(len(values), np.inf), whole.copy()
        some = max(1, _SOME // max(1, values.shape[1]))
        for first in range(0, len(values), some):
            part = values[first:first + some]
            for shrink in _SHRINKS:
                ends = whole[first:first + some] * np.float32(shrink)
                scales = ends / grid.least
                steps = np.where(scales == 0, 1, scales)[:, None]
                off = np.rint(part / steps).clip(grid.least, grid.largest) * steps - part
                error = np.einsum('ij,ij->i', off, off)
                better = error < best[first:first + some]
                best[first:first + some][better] = error[better]
                found[first:first + some][better] = ends[better]
        return found

    def quantise(self, linear: Linear, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """See Quantiser; natively where neighbouring outputs share a scale."""
        if not isinstance(grid.shared, int):
            return super().quantise(linear, grid)
        return grid.nearest(linear.weight, _SHRINKS, len(os.sched_getaffinity(0)))


@quantiser('feedback')
class Feedback(Quantiser):
    """Each row's rounding error is spread over the rows that follow (GPTQ, Frantar et al. 2023).

    Rows are taken by falling second moment of their input. Scales are each row's own, found when
    it is its turn, or `scales`' where they are shared wider than a row.

    With `parts` above 1 rows are cut into so many parts by that
    moment, and errors stay within theirs: rows that are likely to be refined together make up for
    each other, not for the rest.
    """

    _BLOCK = 128

    def __init__(self, scales: str = 'mse', damping: float = 0.01, parts: int = 1):
        if not 0 < damping < 1:
            raise ValueError(f'damping {damping}: want more than 0 and less than 1')
        if not 1 <= parts <= 64:
            raise ValueError(f'parts {parts}: want 1 to 64')
        self._ends = make(QUANTISERS, 'quantiser', scales, {})
        self.damping, self.parts = damping, parts

    def ends(self, values: np.ndarray, grid: Grid) -> np.ndarray:
        """See Quantiser."""
        return self._ends.ends(values, grid)

    def quantise(self, linear: Linear, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """See Quantiser."""
        if not linear.moments:
            return self._ends.quantise(linear, grid)
        # What a pruner takes away is an error like any other.
        weight = linear.weight if linear.unpruned is None else linear.unpruned
        integers = np.empty(weight.shape, np.int8)
        scales = self.scales(linear.weight, grid)
        first = 0
        for number, moments in enumerate(linear.moments):
            rows = slice(first, first + len(moments))
            kept = None if linear.kept is None else linear.kept[rows]
            # Rows that go altogether go first: all that are left then make up for them.
            stays = np.ones(len(moments), bool) if kept is None else kept.any(axis=1)
            key = 'inverse', self.damping, self.parts, number, stays.tobytes()
            if key not in linear.scratch:
                order = np.lexsort([-np.diagonal(moments), stays])
                linear.scratch[key] = [
                    (some, inverse_factor(moments[np.ix_(some, some)], self.damping))
                    for some in np.array_split(order, self.parts) if len(some)]
            for order, spread in linear.scratch[key]:
                self._spread(weight[rows], order, spread, grid, integers[rows], scales[rows], kept)
            first = rows.stop
        return integers, scales

    def _spread(self, weight: np.ndarray, order: np.ndarray, spread: np.ndarray, grid: Grid,
                integers: np.ndarray, scales: np.ndarray, kept: np.ndarray | None) -> None:
        """Fill in the integers and scales of the rows in `order`."""
        shrinks = {LeastSquares: _SHRINKS, MinMax: np.ones(1)}.get(type(self._ends))
        own = isinstance(grid.shared, int) and shrinks is not None
        left = weight[order]
        for begin in range(0, len(order), self._BLOCK):
            end = min(begin + self._BLOCK, len(order))
            errors = np.empty((end - begin, weight.shape[1]), np.float32)
            for at in range(begin, end):
                row, channel = left[at:at + 1], order[at]
                if kept is not None:
                    row = row * kept[channel]
                if own:
                    made, scale = grid.nearest(row, shrinks)
                else:
                    scale = (scales[channel:channel + 1] if grid.shared in ('tensor', 'column')
                             else self.scales(row, grid))
                    made = grid.round(row, scale)
                integers[channel], scales[channel] = made[0], scale[0]
                errors[at - begin] = (left[at] - grid.values(made, scale)[0]) / spread[at, at]
                if at + 1 < end:
                    left[at + 1:end] -= np.outer(spread[at, at + 1:end], errors[at - begin])
            if end < len(order):
                torch.from_numpy(left[end:]).addmm_(
                    torch.from_numpy(spread[begin:end, end:]).t(), torch.from_numpy(errors),
                    alpha=-1)


def inverse_factor(moments: np.ndarray, damping: float) -> np.ndarray:
    """Return the upper Cholesky factor of the inverse of damped moments, float32."""
    matrix = torch.from_numpy(np.ascontiguousarray(moments)).double()
    diagonal = matrix.diagonal()
    dead = diagonal <= 0
    diagonal += damping * diagonal.mean().clamp(min=1e-12)
    diagonal[dead] = diagonal[dead].clamp(min=1.0)
    while True:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            break
        diagonal += 10 * damping * diagonal.mean()
    del matrix, diagonal  # of a hundred megabytes each, there are never more than two
    factor = torch.cholesky_inverse(factor)
    factor = torch.linalg.cholesky(factor, upper=True)
    return factor.float().numpy()


class _Learning(Quantiser):
    """What quantisers share that learn from what rounding does to the layer's output."""

    def __init__(self, scales: str = 'mse', steps: int = 200, rate: float = 0.01):
        if steps < 1 or not rate > 0:
            raise ValueError(f'steps {steps}, rate {rate}: want positive numbers')
        self._start, self.steps, self.rate = make(QUANTISERS, 'quantiser', scales, {}), steps, rate

    def ends(self, values: np.ndarray, grid: Grid) -> np.ndarray:
        """See Quantiser."""
        return self._start.ends(values, grid)

    @staticmethod
    def moments(linear: Linear) -> list[torch.Tensor]:
        """Return the input's moments, normalised; one of ones where none are known."""
        blocks = linear.moments or [np.eye(len(linear.weight), dtype=np.float32)]
        mean = float(np.mean([np.diagonal(block).mean() for block in blocks])) or 1.0
        return [torch.from_numpy(np.ascontiguousarray(block)) / mean for block in blocks]

    @staticmethod
    def error(off: torch.Tensor, moments: list[torch.Tensor]) -> torch.Tensor:
        """Return the mean squared error of the outputs for errors of the weights."""
        parts = off.split([len(block) for block in moments])
        return sum((part * (block @ part)).sum()
                   for part, block in zip(parts, moments, strict=True)) / off.shape[1]


@quantiser('lsq')
class LearnedScale(_Learning):
    """Scales learnt by gradients through the rounding (LSQ, Esser et al. 2020)."""

    def quantise(self, linear: Linear, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """See Quantiser."""
        _, first = self._start.quantise(linear, grid)
        weight, moments = torch.from_numpy(linear.weight), self.moments(linear)
        start = torch.from_numpy(first)
        if grid.shared == 'tensor':
            factor = torch.zeros(1, 1, requires_grad=True)
        elif grid.shared == 'column':
            factor = torch.zeros(1, first.shape[1], requires_grad=True)
        elif grid.shared == 'row':
            factor = torch.zeros(len(first), 1, requires_grad=True)
        else:
            factor = torch.zeros_like(start, requires_grad=True)
        optimizer = torch.optim.Adam([factor], lr=self.rate)
        best, kept = np.inf, first
        for _ in range(self.steps + 1):
            scales = start * factor.exp()
            each = scales.repeat_interleave(grid.width, dim=1)[:, :weight.shape[1]]
            each = torch.where(each == 0, torch.ones_like(each), each)
            position = weight / each
            inside = position.clamp(grid.least, grid.largest)
            rounded = inside + (inside.round() - inside).detach()
            loss = self.error(rounded * each - weight, moments)
            if loss.item() < best:
                best, kept = loss.item(), to_numpy(scales)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scales = _as_stored(kept)
        return grid.round(linear.weight, scales), scales


@quantiser('adaround')
class LearnedRounding(_Learning):
    """Up or down, learnt for each weight (AdaRound, Nagel et al. 2020)."""

    _STRETCH = (-0.1, 1.1)

    def quantise(self, linear: Linear, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """See Quantiser."""
        nearest, scales = self._start.quantise(linear, grid)
        weight, moments = torch.from_numpy(linear.weight), self.moments(linear)
        each = torch.from_numpy(grid.each(scales, weight.shape[1]).copy())
        each = torch.where(each == 0, torch.ones_like(each), each)
        below = (weight / each).floor()
        rest = (weight / each - below).clamp(0.01, 0.99)
        low, high = self._STRETCH
        choice = -torch.log((high - low) / (rest - low) - 1)
        choice.requires_grad_(True)
        optimizer = torch.optim.Adam([choice], lr=self.rate)
        whole = weight.numel()
        for step in range(self.steps):
            share = (torch.sigmoid(choice) * (high - low) + low).clamp(0, 1)
            position = (below + share).clamp(grid.least, grid.largest)
            loss = self.error(position * each - weight, moments)
            # From the middle on, towards one or the other.
            anneal = max(0.0, (step / self.steps - 0.2) / 0.8)
            sharp = 20 - 18 * anneal
            push = (1 - (2 * share - 1).abs().pow(sharp)).sum() / whole
            optimizer.zero_grad()
            (loss + anneal * push * loss.detach()).backward()
            optimizer.step()
        up = choice.detach() >= 0
        learnt = (below + up).clamp(grid.least, grid.largest)
        learnt = torch.where(torch.from_numpy(scales != 0).repeat_interleave(
            grid.width, dim=1)[:, :weight.shape[1]], learnt, torch.zeros_like(learnt))
        tries = [learnt, torch.from_numpy(nearest).float()]
        errors = [self.error(made * each - weight, moments).item() for made in tries]
        return tries[int(np.argmin(errors))].numpy().astype(np.int8), scales


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return a copy without its gradient."""
    return tensor.detach().numpy().copy()


def _as_stored(scales: np.ndarray) -> np.ndarray:
    """Round scales to the nearest bfloat16."""
    return torch.from_numpy(scales).bfloat16().float().numpy()
