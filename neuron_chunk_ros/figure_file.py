# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Saving a matplotlib figure: drawn in memory, so that a full disk costs no earlier picture."""

import io
from pathlib import Path

from neuron_chunk_ros.storage.atomic import replace_file


def save_figure(figure, path: Path, dpi: int, **options) -> None:
    """Write a figure as the path's suffix says, whole or not at all. Raises OSError."""
    path, drawn = Path(path), io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:] or 'png', dpi=dpi, **options)
    replace_file(path, [drawn.getbuffer()])
