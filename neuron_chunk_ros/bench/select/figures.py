# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of what `bench select` found."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from neuron_chunk_ros.bench import figures
from neuron_chunk_ros.bench.report import Record
from neuron_chunk_ros.bench.select.measure import WAYS
from neuron_chunk_ros.bench.shapes import DECODERS


def shares(layers: list[Record]) -> Figure:
    """Draw each policy's selecting time as a share of the reading it plans."""
    figure, (axis,) = figures.panels(1, 'Selecting for a layer, one core, against the reading '
                                     'that it plans (half of the rows)', width=8.0)
    decoders = list(dict.fromkeys(layer['decoder'] for layer in layers))
    width = 0.8 / len(WAYS)
    hatches = {'rows': '', 'time': '///'}
    for number, (policy, budget) in enumerate(WAYS):
        mine = [layer for layer in layers if (layer['policy'], layer['budget'])
                == (policy, budget)]
        places = np.arange(len(decoders)) + (number - (len(WAYS) - 1) / 2) * width
        bars = axis.bar(places, [100 * layer['share'] for layer in mine], width,
                        color=figures.COLOURS[policy], hatch=hatches[budget], edgecolor='white',
                        linewidth=0, label=f'{policy}, budget of {budget}')
        axis.bar_label(bars, fmt='%.1f', fontsize=7, padding=1)
    axis.axhline(5, color=figures.BLACK, linestyle=':', linewidth=1)
    axis.annotate('goal: 5 %', (-0.5, 5), fontsize=8, va='bottom', ha='right')
    axis.set_xlim(left=-1)
    axis.set_xticks(range(len(decoders)), [DECODERS[name].label for name in decoders], fontsize=8)
    axis.set_ylabel('selecting / reading [%]', fontsize=8)
    axis.legend(fontsize=8, frameon=False)
    return figure
