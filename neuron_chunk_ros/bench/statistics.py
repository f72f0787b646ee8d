# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Medians, bootstrap intervals, curves made monotone, and how well times were foretold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from neuron_chunk_ros.chunking.estimate import Correction

RESAMPLES = 1000
LEVEL = 0.95
_TILT = 1e-9


class Interval(NamedTuple):
    """A value and the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def resampled(count: int, rng: np.random.Generator, times: int = RESAMPLES) -> np.ndarray:
    """Draw which repeats each bootstrap sample holds: int64 [times, count]."""
    return rng.integers(0, count, (times, count))


def interval(value: float, replicas: np.ndarray) -> Interval:
    """Percentile interval of a value's bootstrap replicas; those that are NaN don't count."""
    replicas = replicas[~np.isnan(replicas)]
    if not len(replicas):
        return Interval(float(value), float('nan'), float('nan'))
    low, high = np.quantile(replicas, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def median_replicas(samples: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Medians of bootstrap samples: [..., repeats] and draws [times, repeats] -> [..., times].

    The same draws for all rows keep repeats together that were measured together.
    """
    return np.median(samples[..., draws], axis=-1)


def median_interval(samples: np.ndarray, draws: np.ndarray) -> Interval:
    """Return the median of samples [repeats] with its interval."""
    return interval(np.median(samples), median_replicas(samples, draws))


def ratio_interval(above: np.ndarray, below: np.ndarray, draws: np.ndarray) -> Interval:
    """Return median(above) / median(below), both [repeats] and measured in turns."""
    return interval(np.median(above) / np.median(below),
                    median_replicas(above, draws) / median_replicas(below, draws))


def isotonic(values: np.ndarray) -> np.ndarray:
    """Least-squares fit that never falls (pool adjacent violators), float64, same length."""
    pools: list[tuple[float, int]] = []
    for value in values:
        total, count = float(value), 1
        while pools and pools[-1][0] * count >= total * pools[-1][1]:
            before, number = pools.pop()
            total, count = total + before, count + number
        pools.append((total, count))
    return np.repeat([t / c for t, c in pools], [c for _, c in pools])


def seconds_at(accuracy: np.ndarray, sparsities: np.ndarray, seconds: np.ndarray,
               scores: np.ndarray) -> np.ndarray:
    """Return how long a method takes when it is set so that it is this accurate.

    The setting is found on the method's own accuracy over sparsity, made monotone; its time lies
    between those of the neighbouring settings. Of settings equally accurate the one nearest to
    the baseline's counts, so that the baseline compared with itself is neither faster nor slower.

    :param accuracy: float64 [n], wanted: what the baseline has at each of the sparsities.
    :param sparsities, seconds, scores: float64 [n] each, what was measured; sparsities ascend.
    :return: float64 [n]. What is more accurate than the method ever was costs its time at the
        first sparsity, what is less its time at the last: neither flatters it.
    """
    falling = isotonic(scores[::-1])[::-1]
    # The setting with an accuracy is unique where the curve falls at all; tilting it ever so
    # little tells where a plateau begins and where it ends.
    tilt = _TILT * np.arange(len(falling))
    begin = np.interp(accuracy, (falling - tilt)[::-1], sparsities[::-1])
    end = np.interp(accuracy, (falling + tilt[::-1])[::-1], sparsities[::-1])
    return np.interp(np.clip(sparsities, begin, end), sparsities, seconds)


class Foretelling(NamedTuple):
    """How estimated times compare with measured ones, over steps in the order they were taken."""

    steps: int
    r_squared: float           # of measured = factor * estimated
    factor: float              # the proportional bias: measured / estimated, least squares
    median_error: float        # |estimated / measured - 1|, as estimated
    corrected_error: float     # the same after the running correction


def running_correction(estimated: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Correct each estimate as the engine would, by what the steps before it took."""
    correction, corrected = Correction(), np.empty(len(estimated))
    for i, (foretold, took) in enumerate(zip(estimated, measured, strict=True)):
        corrected[i] = foretold * correction.factor
        correction.observe(float(foretold), float(took))
    return corrected


def foretelling(estimated: np.ndarray, measured: np.ndarray) -> Foretelling:
    """Compare; both float64 [steps] in seconds, in the order in which steps were taken."""
    factor = float(estimated @ measured / (estimated @ estimated))
    spread = float(((measured - measured.mean()) ** 2).sum())
    left = float(((measured - factor * estimated) ** 2).sum())
    corrected = running_correction(estimated, measured)
    return Foretelling(
        len(measured), 1 - left / spread if spread else float('nan'), factor,
        float(np.median(np.abs(estimated / measured - 1))),
        # The first step has nothing to be corrected by.
        float(np.median(np.abs(corrected / measured - 1)[1:])) if len(measured) > 1
        else float('nan'))
