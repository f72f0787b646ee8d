# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The page of a playback: answers along the bag's time, and what each of them cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuron_chunk_ros.programs.playback.results import Point, Results

# Okabe and Ito's palette, which colour-blind people can tell apart.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
_GREY, _INK, _GRID = '#999999', '#222222', '#dddddd'
_WIDTH, _LANE, _PANEL = 11.0, 0.72, 1.35   # inches
_MOST_LANES = 12
_TEXT = 8.5                                # points


@dataclass
class _Lane:
    """One question: its answers, and the colour of its marks."""

    question: str
    answers: list[tuple[float, str]]
    colour: str


def draw(results: Results, path: Path) -> None:
    """Draw the page as a picture.

    :raises OSError: where it can't be written.
    """
    from matplotlib.figure import Figure
    lanes = _lanes(results)
    shown = lanes[:_MOST_LANES]
    heights = [max(1.2, _LANE * len(shown) + 0.3), *[_PANEL] * 5]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 1.9))
    axes = figure.subplots(6, 1, sharex=True, gridspec_kw={'height_ratios': heights})
    figure.subplots_adjust(left=0.085, right=0.975, hspace=0.25,
                           top=1 - 1.1 / figure.get_figheight(),
                           bottom=0.55 / figure.get_figheight())
    _title(figure, results)
    low, high = _span(results)
    axes[0].set_xlim(low, high)
    _answers(axes[0], shown, len(lanes), (low, high))
    colours = {lane.question: lane.colour for lane in lanes}
    marks = [colours[answer.prompt] for _, answer in results.answers]
    answers, appended = results.answer_points, results.append_points
    _marks(axes[1], 'latency [ms]', answers, appended, marks, lambda p: p.seconds * 1e3)
    _note(axes[1], results)
    _marks(axes[2], 'read [MB]', answers, appended, marks, lambda p: p.megabytes)
    _marks(axes[3], 'read rate [MB/s]', answers, appended, marks, lambda p: p.rate)
    _marks(axes[4], 'importance kept', answers, appended, marks, lambda p: p.kept)
    axes[4].set_ylim(0, 1.08)
    _frames(axes[5], results, high)
    axes[5].set_xlabel('time since the bag began [s]', fontsize=8.5)
    for axis in axes[1:]:
        axis.grid(True, color=_GRID, linewidth=0.6)
        axis.set_axisbelow(True)
    for axis in axes:
        axis.spines[['top', 'right']].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.yaxis.set_label_coords(-0.055, 0.5)
    figure.savefig(path, dpi=130)


def _lanes(results: Results) -> list[_Lane]:
    lanes = {}
    # Standing questions first, as they were given; the others as they were asked.
    rank = {text: place for place, text in enumerate(results.options.standing)}
    for at, answer in sorted(
            results.answers, key=lambda pair: rank.get(pair[1].prompt, len(rank))):
        colour = _COLOURS[len(lanes) % len(_COLOURS)]
        lane = lanes.setdefault(answer.prompt, _Lane(answer.prompt, [], colour))
        lane.answers.append((at, ' '.join(answer.text.split()) or '(empty)'))
    return list(lanes.values())


def _span(results: Results) -> tuple[float, float]:
    times = [results.at(time) for _, time, _ in results.played]
    times += [at for at, _ in results.answers]
    low, high = min(times, default=0.0), max(times, default=1.0)
    margin = max(0.02 * (high - low), 0.05)
    return low - margin, high + margin


def _title(figure, results: Results) -> None:
    inch = 1 / figure.get_figheight()
    options = results.options
    how = [f'model {results.model}'] if results.model else []
    how += [parameter.replace(':=', ' ') for parameter in options.parameters
            if parameter.partition(':=')[0] not in ('model', 'policy')]
    how.append(options.pace)
    median = results.median_seconds
    figures = [f'{len(results.played)} frames played', f'{len(results.looks)} looked at',
               f'{len(results.answers)} answers']
    if median is not None:
        figures.append(f'{median * 1e3:.0f} ms median')
    figures.append(f'{results.megabytes:,.1f} MB read')
    if results.refused:
        figures.append(f'{len(results.refused)} questions refused')
    if results.ending is not None:
        figures.append('ended early')
    for text, below, size, colour, weight in (
            (results.name, 0.42, 15, _INK, 'bold'), (', '.join(how), 0.66, 9.5, _INK, 'normal'),
            (' · '.join(figures), 0.88, 9.5, '#555555', 'normal')):
        figure.text(0.085, 1 - below * inch, _plain(text), fontsize=size, color=colour,
                    fontweight=weight)


def _answers(axis, lanes: list[_Lane], count: int, span: tuple[float, float]) -> None:
    """Draw a lane for each question: its answers as bars from the first to the last of equals."""
    low, high = span
    points = axis.get_position().width * _WIDTH * 72 / (high - low)  # points per second
    axis.set_ylim(len(lanes) - 0.35 if lanes else 1, -0.75)
    axis.set_yticks([])
    axis.spines[['left', 'bottom']].set_visible(False)
    axis.tick_params(bottom=False)
    if not lanes:
        axis.text(0.5, 0.5, 'no answers', transform=axis.transAxes, ha='center', color=_GREY)
    for row, lane in enumerate(lanes):
        axis.text(low, row - 0.36, _cut(lane.question, (high - low) * points),
                  fontsize=_TEXT, color=lane.colour, va='bottom')
        runs = _runs(lane.answers)
        for index, (begin, end, text) in enumerate(runs):
            until = runs[index + 1][0] if index + 1 < len(runs) else high
            axis.barh(row, end - begin, left=begin, height=0.56, color=lane.colour,
                      alpha=0.3 if index % 2 else 0.15, linewidth=0)
            axis.plot([begin, begin], [row - 0.28, row + 0.28], color=lane.colour, linewidth=1)
            axis.annotate(_lines(text, (until - begin) * points - 10), (begin, row), (4, 0),
                          textcoords='offset points', fontsize=_TEXT, color=_INK, va='center',
                          linespacing=1.05)
    if count > len(lanes):
        axis.set_title(f'{count - len(lanes)} more questions are in answers.csv', fontsize=8,
                       color=_GREY, loc='right')


def _runs(answers: list[tuple[float, str]]) -> list[tuple[float, float, str]]:
    """Join equal answers that follow each other: (first, last, text)."""
    runs: list[tuple[float, float, str]] = []
    for at, text in answers:
        if runs and runs[-1][2] == text:
            runs[-1] = runs[-1][0], at, text
        else:
            runs.append((at, at, text))
    return runs


def _lines(text: str, width: float) -> str:
    """Set a text in two lines of this width [points] at most."""
    first = _longest(text, width)
    if first == len(text):
        return _plain(text)
    first = text.rfind(' ', 0, first + 1)
    if first <= 0:  # one long word
        return _cut(text, width)
    rest = _cut(text[first:].lstrip(), width)
    return _plain(text[:first]) + '\n' + rest if rest else _cut(text, width)


def _cut(text: str, width: float) -> str:
    """Shorten a text to this width [points]; empty where hardly a letter fits."""
    if _longest(text, width) == len(text):
        return _plain(text)
    length = _longest(text, width - _TEXT)
    return _plain(text[:length].rstrip() + '…') if length else ''


def _longest(text: str, width: float) -> int:
    """Return how many of a text's letters fit into a width [points]."""
    from matplotlib.textpath import TextPath

    def fits(letters):
        return TextPath((0, 0), _plain(text[:letters]), size=_TEXT).get_extents().width <= width
    if width < _TEXT:
        return 0
    if fits(len(text)):
        return len(text)
    least, most = 0, len(text)
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return least


def _plain(text: str) -> str:
    """Keep matplotlib from setting what stands between dollars as formulas."""
    return text.replace('$', r'\$')


def _marks(axis, label: str, answers: list[Point], appended: list[Point], colours, value) -> None:
    if appended:
        axis.plot([p.at for p in appended], [value(p) for p in appended], '.', color=_GREY,
                  markersize=4)
    axis.scatter([p.at for p in answers], [value(p) for p in answers], s=16, color=colours,
                 linewidth=0, zorder=3)
    axis.set_ylim(0, 1.12 * max((value(p) for p in (*answers, *appended)), default=1) or 1)
    axis.set_ylabel(label, fontsize=8.5)


def _note(axis, results: Results) -> None:
    """Say above the panels what their marks are."""
    values = [p.seconds * 1e3 for p in results.answer_points]
    notes = ['a dot for each answer'] if values else []
    if values:
        middle, late = np.percentile(values, (50, 95))
        axis.axhline(middle, color=_INK, linewidth=0.8, linestyle='--')
        notes.append(f'dashed: median {middle:.0f} ms, 95 % within {late:.0f} ms')
    if results.append_points:
        notes.append('grey: frames appended to the context')
    axis.set_title('; '.join(notes), fontsize=8, color='#555555', loc='right', pad=3)


def _frames(axis, results: Results, high: float) -> None:
    """Draw how many frames were played and looked at so far."""
    played = [results.at(time) for _, time, _ in results.played]
    for times, colour, name in ((played, _GREY, 'played'),
                                (results.looks, _COLOURS[0], 'looked at')):
        counts = np.arange(1, len(times) + 1)
        axis.step([*times, high], [*counts, len(times)], where='post', color=colour,
                  linewidth=1.6, label=f'{name}: {len(times)}')
    axis.set_ylim(bottom=0)
    axis.set_ylabel('frames', fontsize=8.5)
    axis.legend(loc='upper left', frameon=False, fontsize=8)
