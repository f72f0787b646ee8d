# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The terminal while the monitor has it, and as it was before."""

import contextlib
import os
import select
import sys
import tempfile
import termios

from rich.console import Console
from rich.text import Text

# Alternate screen, no cursor; lines that a terminal takes for longer than they are don't wrap.
_ENTER = '\x1b[?1049h\x1b[?25l\x1b[?7l'
_LEAVE = '\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l'


class Screen:
    """Draws lines on the alternate screen and writes only those that changed.

    A context: leaving it gives the terminal back as it was found.
    """

    def __init__(self):
        self._console = Console(file=sys.stdout, highlight=False, emoji=False)
        self._drawn: list[tuple] = []
        self._size = (0, 0)
        self._keys = sys.stdin.fileno() if sys.stdin and sys.stdin.isatty() else None
        self._attributes = None
        self._errors = None

    def __enter__(self):
        try:
            if self._keys is not None:
                self._attributes = termios.tcgetattr(self._keys)
                changed = [*self._attributes[:6], list(self._attributes[6])]
                # Keys come one by one and unseen; Ctrl-S must not hold the monitor up.
                changed[3] &= ~(termios.ICANON | termios.ECHO)
                changed[0] &= ~termios.IXON
                changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
                termios.tcsetattr(self._keys, termios.TCSADRAIN, changed)
            self._hold_errors()
            self._write(_ENTER)
            self.forget()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # A terminal that has gone takes nothing; that must not hide why we leave.
        with contextlib.suppress(OSError, ValueError):
            self._write(_LEAVE)
        if self._attributes is not None:
            with contextlib.suppress(OSError, termios.error):
                # Keys that were pressed meanwhile were meant for the monitor.
                termios.tcsetattr(self._keys, termios.TCSAFLUSH, self._attributes)
            self._attributes = None
        self._release_errors()

    @property
    def unicode(self) -> bool:
        """Whether the terminal's encoding has more than a few hundred characters."""
        return self._console.encoding.lower().replace('-', '').startswith('utf')

    @staticmethod
    def size() -> tuple[int, int]:
        """Return the terminal's width and height; 80 x 24 where it doesn't tell."""
        size = os.get_terminal_size(sys.stdout.fileno())
        return size.columns or 80, size.lines or 24

    def forget(self):
        """Have the next draw() write everything."""
        self._size = (0, 0)

    def draw(self, lines: list[Text], size: tuple[int, int]):
        """Show the lines, from the top, on a terminal of this size."""
        out = []
        if size != self._size:
            self._size, self._drawn = size, []
            out.append('\x1b[2J')
        new = [(line.plain, line.style, tuple(line.spans)) for line in lines]
        for row, line in enumerate(lines):
            if row >= len(self._drawn) or self._drawn[row] != new[row]:
                # At the right edge the cursor stays on the last character, and would erase it.
                erase = '\x1b[K' if line.cell_len < size[0] else ''
                out.append(f'\x1b[{row + 1};1H{self._rendered(line)}{erase}')
        self._drawn = new
        if out:
            self._write(''.join(out))

    def keys(self) -> str:
        """Return the keys pressed since the last call; 'q' when the terminal has gone."""
        if self._keys is None or not select.select([self._keys], [], [], 0)[0]:
            return ''
        try:
            return os.read(self._keys, 1024).decode('latin-1') or 'q'
        except OSError:
            return 'q'

    def _rendered(self, line: Text) -> str:
        with self._console.capture() as captured:
            self._console.print(line, end='', soft_wrap=True)
        return captured.get()

    def _write(self, text: str):
        encoding = sys.stdout.encoding or 'utf-8'
        sys.stdout.buffer.write(text.encode(encoding, 'replace'))
        sys.stdout.buffer.flush()

    def _hold_errors(self):
        """Keep what libraries write to the same terminal until it is given back."""
        if sys.stderr and sys.stderr.isatty():
            held = tempfile.TemporaryFile()
            self._errors = held, os.dup(2)
            os.dup2(held.fileno(), 2)

    def _release_errors(self):
        if self._errors is None:
            return
        (held, terminal), self._errors = self._errors, None
        os.dup2(terminal, 2)
        os.close(terminal)
        held.seek(0)
        with held, contextlib.suppress(OSError):
            os.write(2, held.read(65536))
