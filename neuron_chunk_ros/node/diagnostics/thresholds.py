# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From numbers and limits to a REP-107 level. A limit of 0 switches its check off."""

from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus

OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
ERROR, STALE = DiagnosticStatus.ERROR, DiagnosticStatus.STALE
# From good to bad. STALE is for data that has stopped coming, for longer than it may: worse than
# a warning, no proof of an error.
BADNESS = (OK, WARN, STALE, ERROR)

# What happened and passed, such as a missed deadline, shows for this long [s].
EVENT_SECONDS = 5.0


@dataclass(frozen=True)
class Status:
    """A REP-107 level, one line, and the values behind it."""

    level: bytes
    message: str
    values: dict[str, object] = field(default_factory=dict)


class Findings:
    """Collects what is wrong with one part; the worst decides its level and is told first."""

    def __init__(self):
        self._found: list[tuple[bytes, str]] = []

    def add(self, level: bytes, text: str):
        """Note something that is not OK."""
        self._found.append((level, text))

    def above(self, value: float, text: str, limits, *names: tuple[bytes, str], cure: str = ''):
        """Note a value above its limits, once, as the worst of them wants.

        :param text: what has that value; told before the limit, and `cure` after it.
        :param names: (level, parameter) pairs, the worst level first.
        """
        for level, name in names:
            if 0 < getattr(limits, name) < value:
                self.add(level, f'{text}, above {name} {getattr(limits, name):g}{cure}')
                return

    def status(self, fine: str, values: dict[str, object], prefix: str = '') -> Status:
        """Return the status.

        :param fine: the message where nothing was found; `prefix` leads it where something was.
        """
        if not self._found:
            return Status(OK, fine, values)
        found = sorted(self._found, key=lambda f: -BADNESS.index(f[0]))
        return Status(found[0][0], prefix + '; '.join(text for _, text in found), values)
