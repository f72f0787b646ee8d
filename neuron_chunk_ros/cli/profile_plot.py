# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Draws a storage profile: throughput against the size of a read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuron_chunk_ros.figure_file import save_figure
from neuron_chunk_ros.storage.profile import Profile

_BLUE, _VERMILION, _GREY = '#0072B2', '#D55E00', '#666666'   # Okabe and Ito's palette


def draw(profile: Profile, path: Path) -> None:
    """Draw a measured profile: medians, quartiles, the two lines and the saturation size.

    :raises OSError: where it can't be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    sizes = np.array(profile.sizes_kib, np.float64)
    rates = _rates(sizes, profile.seconds_per_read)
    faster, slower = (_rates(sizes, times) for times in zip(*profile.quartiles, strict=True))
    fine = np.geomspace(sizes[0], sizes[-1], 400)

    figure = Figure(figsize=(7.6, 4.8), layout='constrained')
    axes = figure.subplots()
    axes.fill_between(sizes, slower, faster, color=_BLUE, alpha=0.18, linewidth=0,
                      label='quartiles')
    axes.plot(sizes, rates, 'o', color=_BLUE, markersize=4.5, label='measured, median')
    axes.plot(fine, _rates(fine, profile.seconds(fine)), color=_VERMILION, linewidth=1.3,
              label=f'fit, two lines that meet at {profile.knee_kib:.0f} KiB')
    axes.axvline(profile.saturation_kib, color=_GREY, linestyle='--', linewidth=1,
                 label=f'saturated from {profile.saturation_kib} KiB (99 % of the peak)')

    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    # powers of two, and steps of 1, 2 and 5: a decade between two marks would tell nothing
    axes.set_xticks(2.0 ** np.arange(np.floor(np.log2(sizes[0])), np.log2(sizes[-1]) + 1))
    low, high = slower.min() * 0.8, faster.max() * 1.25
    steps = np.outer(10.0 ** np.arange(-3, 7), (1, 2, 5)).ravel()
    axes.set_ylim(low, high)
    axes.set_yticks(steps[(steps >= low) & (steps <= high)])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel('read size [KiB]')
    axes.set_ylabel('throughput [MB/s]')
    axes.grid(True, color='#dddddd', linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc='upper left', frameon=False, fontsize=9)
    about = profile.about
    axes.set_title(f'{about["device"]}, {about["file_system"]}, {about["backend"]}, '
                   f'{"direct I/O" if about["direct_io"] else "buffered"}, '
                   f'{about["date"][:10]}, {about["repeats"]} rounds', fontsize=10)
    save_figure(figure, path, dpi=130)


def _rates(kib, seconds) -> np.ndarray:
    return np.asarray(kib) * 1024 / np.asarray(seconds) / 1e6
