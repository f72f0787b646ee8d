# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How what is known looks in a terminal: lines of rich Text, none wider than the terminal.

From top to bottom: a title, figures, the diagnostics of the node's parts, answers (newest first).
Where room is short, what is wrong is kept and what is well is summed up. Colour only repeats what
words say.
"""

import time
from dataclasses import dataclass

from rich.text import Text

from neuron_chunk_ros.programs.monitor.known import (
    ERROR,
    GB,
    HISTORY_SECONDS,
    LEVELS,
    MB,
    OK,
    STALE,
    WARN,
    Answered,
    Known,
    Part,
    severity,
)
from neuron_chunk_ros.programs.monitor.texts import cell_len as cells
from neuron_chunk_ros.programs.monitor.texts import percent, seconds, shorten, sparkline, wrap

STYLES = {OK: 'green', WARN: 'bold yellow', ERROR: 'bold red', STALE: 'bold magenta'}
# Narrower than this nothing can be laid out; the lines are cut.
_NARROWEST = 30
# Narrower than this an answer's figures go behind its text.
_NARROW = 60
_LABEL, _LEVEL = 9, 6
_FIGURES, _LONGEST_SPARKLINE = 6, 60
_MESSAGE_LINES, _ANSWER_LINES = 3, 2
_NONE = 'none yet'


@dataclass(frozen=True)
class Glyphs:
    """Characters beyond ASCII and what stands for them."""

    levels: str = ' ▁▂▃▄▅▆▇█'
    full: str = '█'
    empty: str = '░'
    rule: str = '─'
    gives: str = ' → '


ASCII = Glyphs(' .:-=+*#@', '#', '.', '-', ' -> ')

_Piece = tuple[str, str]


def screen(known: Known, now: float, width: int, height: int,
           glyphs: Glyphs = Glyphs()) -> list[Text]:
    """Lay out exactly `height` lines of at most `width` cells."""
    wide = max(width, _NARROWEST)
    footer = [_line(wide, ('q quits', 'dim'))] if height >= 12 else []
    body = height - 1 - len(footer)
    figures = _figures(known, now, wide, glyphs)
    figures = figures[:_FIGURES if body >= 18 else 3 if body >= 11 else int(body >= 7)]
    room = body - len(figures)
    ruled = room >= 8
    room -= 2 * ruled
    parts = _parts(known, wide, max(1, room // 2))
    answers = _answers(known, wide, room - len(parts), glyphs)
    lines = [_title(known, now, wide), *figures]
    if ruled:
        lines += [_rule(wide, 'diagnostics', glyphs), *parts,
                  _rule(wide, _answers_label(known), glyphs), *answers]
    else:
        lines += [*parts, *answers]
    lines = lines[:height - len(footer)]
    lines += [Text()] * (height - len(footer) - len(lines)) + footer
    if known.silence(now) is not None:  # all of it is old
        for line in lines[1:]:
            line.stylize('dim')
    if width < wide:
        for line in lines:
            line.truncate(max(0, width))
    return lines


def snapshot(known: Known, now: float, wall: float, width: int = 100,
             glyphs: Glyphs = Glyphs()) -> list[str]:
    """Return all that is known as plain lines, with every value of the diagnostics.

    :param width: of texts, which go on over as many lines as they need; values aren't broken.
    """
    width = max(width, 2 * _NARROWEST)
    stamp = time.strftime('%Y-%m-%d %H:%M:%S %z', time.localtime(wall))
    lines = [stamp, _title(known, now, width),
             *_figures(known, now, width, glyphs), _rule(width, 'diagnostics', glyphs)]
    for part in known.parts.values():
        lines += _part(part, width, _name_width(known), 100)
        lines += [f'    {key}: {value}' for key, value in part.values.items()]
    if not known.parts:
        lines.append(_NONE)
    lines.append(_rule(width, _answers_label(known), glyphs))
    for answer in known.answers:
        lines += _answer(answer, width, 100, glyphs)
    if not known.answers:
        lines.append(_NONE)
    return [str(line).rstrip() for line in lines]


def _line(width: int, *pieces: _Piece, right: tuple[_Piece, ...] = ()) -> Text:
    """Join pieces of (text, style), shortened to what `right`, at the right edge, leaves."""
    line, room = Text(), width - sum(cells(text) for text, _ in right)
    room -= bool(right)
    for text, style in pieces:
        text = shorten(text, room)
        room -= cells(text)
        line.append(text, style)
    if right:
        line.append(' ' * (room + 1))
        for text, style in right:
            line.append(text, style)
    return line


def _title(known: Known, now: float, width: int) -> Text:
    worst, silence = known.worst(), known.silence(now)
    if silence is None:
        state = 'live' if known.last_word is not None else 'waiting for its first word'
        right = ((f'{LEVELS[worst]} ', STYLES[worst]),) if worst else ()
        right += ((state, STYLES[OK] if known.last_word is not None else 'dim'),)
    else:
        quiet = f'{silence:.1f} s' if silence < 10 else f'{silence:.0f} s'
        gone = known.offered is False and known.last_word is not None
        state = f'gone for {quiet}' if gone else f'no word for {quiet}'
        right = ((state, 'bold red reverse'),)
    if sum(cells(text) for text, _ in right) >= width:
        right = ()
    about = ', '.join(filter(None, (known.model, known.policy)))
    return _line(width, (known.name, 'bold'), (f'  {about}' if about else '', ''), right=right)


def _rule(width: int, label: str, glyphs: Glyphs) -> Text:
    label = f'{glyphs.rule * 2} {label} '
    return _line(width, (label + glyphs.rule * max(0, width - cells(label)), 'dim'))


def _figures(known: Known, now: float, width: int, glyphs: Glyphs) -> list[Text]:
    """Return _FIGURES lines, those to keep where room is short first."""
    rows = (('reading', _reading(known, now, width - _LABEL, glyphs)),
            ('latency', _latency(known)), ('cache', _cache(known, glyphs)),
            ('queue', _queue(known)), ('kept', _kept(known)), ('steps', _steps(known, now)))
    return [_line(width, (f'{label:{_LABEL}}', 'cyan'), (text, '')) for label, text in rows]


def _reading(known: Known, now: float, width: int, glyphs: Glyphs) -> str:
    if not known.heard_steps:
        return _NONE
    speed = known.read_speed()
    rate = f'{known.read.rate(now) / MB:.1f} MB/s '
    whole = known.read.latest(now, HISTORY_SECONDS)
    tail = '' if speed is None else f' ({speed / GB:.2f} GB/s while it reads)'
    room = min(_LONGEST_SPARKLINE, width - len(rate) - len(tail) - len(' peak 9999.9'))
    if room < 8:
        return rate + tail.strip()
    history = whole[-room:]
    return (f'{rate}{sparkline(history, glyphs.levels)} peak {max(history) / MB:.1f}{tail}')


def _latency(known: Known) -> str:
    figures = known.latencies()
    if figures is None:
        return _NONE
    last, median, high, count = figures
    told = known.value('recent answers (tokens/s)')
    speed = f', {told} tokens/s' if told and told[0].isdigit() else ''
    return (f'last {seconds(last)}, p50 {seconds(median)}, p95 {seconds(high)} '
            f'({count} answer{"s" * (count > 1)}){speed}')


def _cache(known: Known, glyphs: Glyphs) -> str:
    frames, tokens, capacity = map(
        known.value, ('stream frames', 'stream tokens', 'stream capacity'))
    if tokens is None:
        return 'no stream' if known.parts else _NONE
    told = f'{frames or "?"} frames, {tokens} of {capacity or "?"} tokens'
    try:
        share = int(tokens) / int(capacity)
    except (TypeError, ValueError, ZeroDivisionError):
        return told
    filled = round(10 * min(1.0, max(0.0, share)))
    return f'{told} {glyphs.full * filled}{glyphs.empty * (10 - filled)} {percent(share)}'


def _queue(known: Known) -> str:
    waiting = known.value('waiting')
    if waiting is None:
        return _NONE
    limit = known.value('queue limit')
    told = [f'{waiting} of {limit} waiting' if limit else f'{waiting} waiting']
    for key in ('answered', 'refused', 'failed', 'deadlines missed'):
        if (value := known.value(key)) is not None:
            told.append(f'{value} {key}')
    return ', '.join(told)


def _kept(known: Known) -> str:
    rows = known.rows_kept()
    if rows is None:
        return _NONE
    told = (f'importance {percent(known.importance_kept())}, rows {percent(rows)} '
            f'(sparsity {1 - rows:.2f})')
    attention = known.attention_kept()
    return told if attention is None else f'{told}, attention to images {percent(attention)}'


def _steps(known: Known, now: float) -> str:
    if not known.heard_steps:
        return _NONE
    told = [f'{kind} {seconds(mean)}' for kind, mean in known.step_seconds().items()]
    told.append(f'{known.steps.rate(now):.1f} steps/s')
    waiting = known.waiting_share()
    if waiting is not None:
        told.append(f'waiting for reads {percent(waiting)}')
    return ', '.join(told)


def _name_width(known: Known) -> int:
    return min(20, max((cells(name) for name in known.parts), default=0)) + 1


def _part(part: Part, width: int, names: int, limit: int) -> list[Text]:
    name = shorten(part.name, names - 1)
    indent = _LEVEL + names
    messages = wrap(part.message, max(10, width - indent), limit) or ('',)
    first = _line(width, (f'{LEVELS[part.level]:{_LEVEL}}', STYLES[part.level]),
                  (name + ' ' * (names - cells(name)), ''), (messages[0], ''))
    return [first, *(_line(width, (' ' * indent + message, '')) for message in messages[1:])]


def _parts(known: Known, width: int, room: int) -> list[Text]:
    """Return at most `room` lines: in the node's order, or the worst where not all fit."""
    parts, names = list(known.parts.values()), _name_width(known)
    if not parts:
        return [_line(width, ('no diagnostics yet', 'dim'))]
    for limit in range(_MESSAGE_LINES, 0, -1):
        lines = [line for part in parts
                 for line in _part(part, width, names, limit if part.level != OK else 1)]
        if len(lines) <= room:
            return lines
    parts.sort(key=lambda part: -severity(part.level))
    shown, rest = parts[:room - 1], parts[room - 1:]
    lines = [line for part in shown for line in _part(part, width, names, 1)]
    worst = rest[0].level
    told = f'and {len(rest)} more' if shown else f'{len(rest)} parts'
    return [*lines, _line(width, (f'{LEVELS[worst]:{_LEVEL}}', STYLES[worst]),
                          (told if worst == OK else f'{told}, this or better', ''))]


def _answers_label(known: Known) -> str:
    return 'answers (* standing prompt)' if any(a.standing for a in known.answers) else 'answers'


def _answers(known: Known, width: int, room: int, glyphs: Glyphs) -> list[Text]:
    if not known.answers:
        return [_line(width, ('none yet', 'dim'))][:max(0, room)]
    lines = []
    for answer in known.answers:
        left = room - len(lines)
        if left <= 0:
            break
        # The newest may fill half of the room.
        lines += _answer(answer, width, _ANSWER_LINES if lines else max(_ANSWER_LINES, room // 2),
                         glyphs)[:left]
    return lines


def _answer(answer: Answered, width: int, limit: int, glyphs: Glyphs) -> list[Text]:
    """Return one line where question and text fit on it; else up to `limit` lines."""
    head = time.strftime('%H:%M:%S', time.localtime(answer.wall))
    head += '* ' if answer.standing else '  '
    took, sure = seconds(answer.seconds), percent(answer.confidence)
    prompt = answer.prompt
    if answer.cameras:
        prompt = f'[{", ".join(answer.cameras)}] {prompt}'
    text = answer.text or '(no words)'
    if answer.remark:
        text = f'{text} [{answer.remark}]'
    if width < _NARROW:
        text, indent = f'{text} ({took}, {sure})', 2
    else:
        head = f'{head}{took:>7}{sure:>7}  '
        indent = len(head)
    room = width - len(head)
    if cells(prompt) + len(glyphs.gives) + cells(text) <= room:
        return [_line(width, (head, 'dim'), (prompt, ''), (glyphs.gives, 'dim'), (text, 'bold'))]
    asked, *more = wrap(prompt, room, max(1, limit // 3)) or ('',)
    below = [*((line, '') for line in more),
             *((line, 'bold')
               for line in wrap(text, width - indent, max(1, limit - 1 - len(more))))]
    return [_line(width, (head, 'dim'), (asked, '')),
            *(_line(width, (' ' * indent, ''), piece) for piece in below)]
