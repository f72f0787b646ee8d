# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's table, in plain text."""

import statistics
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Asked:
    """One question of the demo, what came back, and the picture it was about."""

    type: str
    question: str
    answer: str
    truth: str
    seconds: float
    bytes_read: int
    chunks: int
    direct_io: bool
    image: np.ndarray
    failure: str = ''

    @property
    def right(self) -> bool:
        """Whether the answer is the truth, case and outer blanks aside."""
        return not self.failure and self.answer.strip().lower() == self.truth


_COLUMNS = (('#', 2, '>'), ('question', 60, '<'), ('answer', 12, '<'), ('truth', 12, '<'),
            ('', 5, '<'), ('ms', 5, '>'), ('MB read', 7, '>'), ('chunks', 6, '>'))


def _line(cells) -> str:
    return ' ' + '  '.join(
        f'{str(cell)[:width]:{side}{width}}'
        for cell, (_, width, side) in zip(cells, _COLUMNS, strict=True)).rstrip()


def header() -> str:
    """Return the table's head, two lines."""
    rule = ' ' + '  '.join('─' * width for _, width, _ in _COLUMNS)
    return _line([name for name, _, _ in _COLUMNS]) + '\n' + rule


def row(number: int, asked: Asked) -> str:
    """Return one line of the table."""
    return _line([
        number, asked.question, asked.answer or '(none)', asked.truth,
        'right' if asked.right else 'WRONG', f'{asked.seconds * 1e3:.0f}',
        f'{asked.bytes_read / 1e6:.2f}', asked.chunks])


def summary(all_asked: list[Asked]) -> str:
    """Return the demo's last line."""
    right = sum(asked.right for asked in all_asked)
    megabytes = sum(asked.bytes_read for asked in all_asked) / 1e6
    direct = 'yes' if all(asked.direct_io for asked in all_asked) else 'no'
    median = statistics.median(asked.seconds for asked in all_asked) * 1e3
    return (f'demo: {len(all_asked)} asked, {right} right, {megabytes:.1f} MB read from flash '
            f'(direct I/O: {direct}), {median:.0f} ms median')
