# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong at each frame is logged at the first."""

import re
from collections.abc import Hashable

_NUMBER = re.compile(r'\d+(\.\d+)?')


class Once:
    """Tells whether a line is news: another than the last one about the same thing.

    Lines that differ in their numbers alone (how old a frame is, how large) are the same.
    """

    def __init__(self):
        self._told: dict[Hashable, str] = {}

    def news(self, about: Hashable, line: str) -> bool:
        """Note a line; True where it says something new."""
        kind = _NUMBER.sub('#', line)
        news = self._told.get(about) != kind
        self._told[about] = kind
        return news

    def over(self, about: Hashable):
        """Note that it went well: the next line is news again."""
        self._told.pop(about, None)
