# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Text from anywhere made fit for a terminal. Widths are cells: most characters take one, some
two, combining ones none.
"""

from functools import lru_cache

from rich.cells import cell_len

# Nobody reads more of one text in a terminal, and every redraw would pay for it.
_LONGEST = 4000
_UNKNOWN = '\ufffd'


def clean(text: str) -> str:
    """Return the text on one line, without anything that could steer the terminal.

    Characters that are drawn differently by each terminal (joiners, variation selectors,
    direction marks) are left out; other unprintable ones become U+FFFD.
    """
    line = ' '.join(text[:_LONGEST + 1].split())
    if len(line) > _LONGEST:
        line = line[:_LONGEST] + '…'
    if line.isascii() and line.isprintable():
        return line
    return ''.join(map(_drawn, line))


def _drawn(character: str) -> str:
    if '\ufe00' <= character <= '\ufe0f' or '\u200b' <= character <= '\u200f':
        return ''
    return character if character.isprintable() else _UNKNOWN


def cut(text: str, width: int) -> str:
    """Return the longest beginning that takes at most `width` cells."""
    if cell_len(text) <= width:
        return text
    used = 0
    for index, character in enumerate(text):
        used += cell_len(character)
        if used > width:
            return text[:index]
    return text


def shorten(text: str, width: int) -> str:
    """Return the text in at most `width` cells; an ellipsis tells that some is missing."""
    if cell_len(text) <= width:
        return text
    return cut(text, width - 1) + '…' if width > 0 else ''


@lru_cache(maxsize=1024)
def wrap(text: str, width: int, limit: int) -> tuple[str, ...]:
    """Break a text between words into at most `limit` lines of at most `width` (2 or more) cells.

    An ellipsis at the end tells that some is missing.
    """
    lines = []
    while text and len(lines) < limit - 1:
        head = cut(text, width)
        rest = text[len(head):]
        if rest and not rest.startswith(' ') and ' ' in head.strip():
            head = head[:head.rindex(' ')]
        lines.append(head.rstrip())
        text = text[len(head):].lstrip()
    return (*lines, shorten(text, width)) if text else tuple(lines)


def seconds(value: float | None) -> str:
    """Return a duration [s] for a person: '8.2 ms', '412 ms', '1.24 s', '75 s'."""
    if value is None:
        return '?'
    if value < 0.01:
        return f'{value * 1e3:.1f} ms'
    if value < 1.0:
        return f'{value * 1e3:.0f} ms'
    return f'{value:.2f} s' if value < 10.0 else f'{value:.0f} s'


def percent(share: float | None) -> str:
    """Return a share, 0 to 1, in percent."""
    return '?' if share is None else f'{share:.0%}'.replace('%', ' %')


def sparkline(values: list[float], levels: str) -> str:
    """Return one character a value, scaled to the largest; `levels` begins with the one for 0."""
    peak = max(values, default=0.0)
    top = len(levels) - 1
    return ''.join(levels[min(top, -int(-value * top // peak))] if value > 0 else levels[0]
                   for value in values)
