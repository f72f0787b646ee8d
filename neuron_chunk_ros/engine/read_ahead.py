# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Reading ahead of a choice: rows of the next group that the last step of its kind chose.

For steps of many tokens, whose products last long enough to read behind; neighbouring frames
choose much alike. Then only what is missing is read. Decoding gains nothing by it: tokens choose
too differently, and the read is what takes the time.
"""

from __future__ import annotations

import numpy as np

from neuron_chunk_ros.chunking import runs

_LEAST = 0.7  # of the rows read ahead has to have been wanted
_AGAIN = 32   # steps after which it is tried again where it was not


class ReadAhead:
    """Remembers what was chosen, guesses by it, and stops where the guesses are poor."""

    def __init__(self):
        self._last: dict[tuple, dict[str, np.ndarray]] = {}
        self._rest: dict[tuple, int] = {}
        self.begin(None)

    def begin(self, kind: tuple | None) -> None:
        """Start a step of a kind; None: one that is not to be guessed for."""
        self._kind, self._new = kind, {}
        self._ahead = self._wanted = 0
        rest = self._rest.get(kind, 0)
        if rest:
            self._rest[kind] = rest - 1
        self._old = {} if rest or kind is None else self._last.get(kind, {})

    def guess(self, group: str) -> np.ndarray | None:
        """Return the runs that are likely to be chosen of a group; None for no idea."""
        return self._old.get(group)

    def note(self, group: str, chosen: np.ndarray, ahead: np.ndarray) -> int:
        """Note a group's choice, and what had been read ahead of it.

        :return: how many of the rows read ahead were chosen.
        """
        self._new[group] = chosen
        wanted = runs.count(ahead) - runs.count(runs.difference(ahead, chosen))
        self._ahead += runs.count(ahead)
        self._wanted += wanted
        return wanted

    def end(self) -> None:
        """Learn from a finished step."""
        if self._kind is None:
            return
        self._last[self._kind] = self._new
        if self._wanted < _LEAST * self._ahead:
            self._rest[self._kind] = _AGAIN
