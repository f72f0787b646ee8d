# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From measured times to a profile's numbers: the two lines, and where throughput saturates."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from neuron_chunk_ros.storage.profile import Line

_PLATEAU = 0.25   # sizes down to this part of the largest count as saturated
_NEARLY = 0.99    # of the peak: Neuron Chunking, section 3.2


def fit_lines(sizes_kib, seconds) -> tuple[Line, Line, float]:
    """Return (low, high, knee [KiB]) with the least squared relative error.

    The knee is tried at every measured size and halfway between neighbours, with at least two
    sizes on either side, and the lines come from weighted least squares for each. T never falls
    with the size, throughput neither: a long read could always be made as two.

    :param sizes_kib: ascending, at least four.
    :param seconds: T at these sizes, positive.
    """
    sizes, seconds = np.asarray(sizes_kib, np.float64), np.asarray(seconds, np.float64)
    knees = np.concatenate([sizes[1:-1], np.sqrt(sizes[1:-2] * sizes[2:-1])])
    fits = [(*_lines(sizes, seconds, knee), knee) for knee in np.sort(knees).tolist()]
    _, low, high, knee = min(fits, key=lambda fit: fit[0])
    return low, high, knee


def _lines(sizes: np.ndarray, seconds: np.ndarray, knee: float) -> tuple[float, Line, Line]:
    """Return the least error with this knee, and the lines."""
    # T = a + b * min(s, knee) + c * max(s - knee, 0)
    shape = [np.ones_like(sizes), np.minimum(sizes, knee), np.maximum(sizes - knee, 0)]
    error, (request, low, high) = _non_negative(np.stack(shape, axis=1) / seconds[:, None])
    if request + (low - high) * knee < 0:
        # Throughput would fall beyond the knee; the best that doesn't has the upper line go
        # through the origin: T = a * max(1, s / knee) + b * s.
        shape = [np.maximum(sizes / knee, 1), sizes]
        error, (request, low) = _non_negative(np.stack(shape, axis=1) / seconds[:, None])
        return error, Line(request, low), Line(0.0, request / knee + low)
    return error, Line(request, low), Line(request + (low - high) * knee, high)


def _non_negative(columns: np.ndarray) -> tuple[float, list[float]]:
    """Least squares of columns @ x = 1 with x >= 0, by trying each set of columns in use."""
    count = columns.shape[1]
    best = (np.inf, np.zeros(count))
    for used in (list(c) for n in range(1, count + 1) for c in combinations(range(count), n)):
        part = np.linalg.lstsq(columns[:, used], np.ones(len(columns)), rcond=None)[0]
        error = float(((columns[:, used] @ part - 1) ** 2).sum())
        if part.min() >= 0 and error < best[0]:
            found = np.zeros(count)
            found[used] = part
            best = (error, found)
    return best[0], best[1].tolist()


def saturation(sizes_kib, seconds) -> int:
    """Return the smallest size [KiB] that reaches 99 % of the peak throughput.

    A single noisy size must decide neither what the peak is nor where it is reached. So
    throughput is first made non-decreasing in the size (isotonic regression: neighbours that
    fall are averaged), and the peak is its mean over the largest two octaves.

    :param sizes_kib: ascending, reaching beyond saturation.
    :param seconds: T at these sizes.
    """
    sizes = np.asarray(sizes_kib)
    rates = _rising(sizes / np.asarray(seconds, np.float64))
    peak = rates[sizes >= _PLATEAU * sizes[-1]].mean()
    return int(sizes[np.argmax(rates >= _NEARLY * peak)])


def _rising(values: np.ndarray) -> np.ndarray:
    """Return the non-decreasing sequence nearest to the values: pool adjacent violators."""
    pools: list[tuple[float, int]] = []   # mean, length
    for value in values:
        pool = (float(value), 1)
        while pools and pools[-1][0] > pool[0]:
            mean, length = pools.pop()
            pool = ((mean * length + pool[0] * pool[1]) / (length + pool[1]), length + pool[1])
        pools.append(pool)
    return np.concatenate([np.full(length, mean) for mean, length in pools])
