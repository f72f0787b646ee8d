# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What all pictures have in common: size, colours that colour-blind people can tell, axes."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuron_chunk_ros.bench.contestants import CONTENDERS

# Okabe and Ito's palette; one colour for each policy, one line style for each reader.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PINK = (
    '#000000', '#E69F00', '#56B4E9', '#009E73', '#0072B2', '#D55E00', '#CC79A7')
COLOURS = {'dense': BLACK, 'topk': VERMILION, 'greedy': ORANGE, 'optimal': BLUE}
MARKERS = {'dense': 's', 'topk': 'o', 'greedy': '^', 'optimal': 'D'}
LINES = {'paper': '--', 'ours': '-'}


def style(policy: str, reader: str) -> dict:
    """Return how a contender is drawn."""
    return {'color': COLOURS[policy], 'marker': MARKERS[policy], 'linestyle': LINES[reader],
            'markersize': 4, 'linewidth': 1.4,
            'markerfacecolor': COLOURS[policy] if reader == 'ours' else 'white'}


def panels(count: int, title: str, width: float = 4.6, height: float = 3.4, columns: int = 2
           ) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many equal panels, at most `columns` beside each other."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.9), layout='constrained')
    figure.suptitle(title, fontsize=11)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    for axis in axes[:count]:
        axis.grid(True, color='#dddddd', linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[['top', 'right']].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes[:count]


def legend_below(figure: Figure, axis: Axes, columns: int = 4) -> None:
    """Put one legend for all panels under them."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=columns, fontsize=8,
                  frameon=False)


def contender_labels() -> Sequence[tuple[str, str, str]]:
    """Return (policy, reader, label) of all contenders."""
    return [(c.policy, c.reader, c.label) for c in CONTENDERS]
