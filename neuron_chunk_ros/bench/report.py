# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a benchmark hands out: records for programs, tables for people, pictures for both."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neuron_chunk_ros.figure_file import save_figure
from neuron_chunk_ros.storage.atomic import replace_file

Record = dict[str, object]


@dataclass(frozen=True)
class Column:
    """A table's column: heading, key of the record, how to write its value."""

    heading: str
    key: str
    form: str = '{}'

    def cell(self, record: Record) -> str:
        """Return the cell's text; a dash where there is no value."""
        value = record.get(self.key)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return '-'
        return self.form.format(value)


@dataclass(frozen=True)
class Table:
    """Records as rows, in order."""

    title: str
    columns: Sequence[Column]
    records: Sequence[Record]

    def text(self) -> str:
        """Lay it out for a terminal: words to the left, numbers to the right."""
        rows = [[column.heading for column in self.columns], *self._cells()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))]
        left = [all(isinstance(r.get(c.key), str) for r in self.records) for c in self.columns]
        lines = ['  '.join(cell.ljust(w) if to_left else cell.rjust(w)
                           for cell, w, to_left in zip(row, widths, left, strict=True)).rstrip()
                 for row in rows]
        return '\n'.join([self.title, *lines])

    def markdown(self) -> str:
        """Lay it out for a document."""
        rows = [[column.heading for column in self.columns],
                ['---'] * len(self.columns), *self._cells()]
        return '\n'.join([f'**{self.title}**', '', *('| ' + ' | '.join(r) + ' |' for r in rows)])

    def _cells(self) -> Iterable[list[str]]:
        for record in self.records:
            yield [column.cell(record) for column in self.columns]


@dataclass
class Report:
    """All that one run found out."""

    name: str                                    # of the benchmark
    facts: Record                                # of the run: command, machine, parameters
    records: dict[str, list[Record]]             # by kind, each written as one CSV
    summary: list[Record]                        # what is asked for, what was reached
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Callable] = field(default_factory=dict)  # name -> () -> matplotlib figure
    captions: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)  # what it comes to, ahead of the tables
    short: Table | None = None                   # for the README

    def add_figure(self, name: str, draw: Callable, caption: str) -> None:
        """Add a picture, drawn when files are written."""
        self.figures[name], self.captions[name] = draw, caption

    def as_json(self) -> Record:
        """Return everything as plain values; NaN becomes None."""
        return _plain({'benchmark': self.name, **self.facts, **self.records,
                       'summary': self.summary})

    def text(self) -> str:
        """Return all tables for a terminal."""
        return '\n\n'.join([*filter(None, ['\n'.join(self.lines)]),
                            *(table.text() for table in self.tables)])

    def write_json(self, path: Path) -> None:
        """Write the records. Raises OSError."""
        replace_file(path, [(json.dumps(self.as_json(), indent=1) + '\n').encode()])

    def write_files(self, folder: Path) -> list[Path]:
        """Write CSV files and pictures, and bring the document beside the folder up to date.

        That document is BENCHMARKS.md one folder up, if it is there: the part between
        `<!-- NAME: written by the tool -->` and `<!-- NAME: end -->` is replaced. So is the short
        table in the README one further up.
        """
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, records in self.records.items():
            path = folder / f'{self.name}-{name}.csv'
            rows, text = [_plain(record) for record in records], io.StringIO()
            columns = dict.fromkeys(key for row in rows for key in row)
            writer = csv.DictWriter(text, list(columns), lineterminator='\n')
            writer.writeheader()
            writer.writerows(rows)
            replace_file(path, [text.getvalue().encode()])
            written.append(path)
        for name, draw in self.figures.items():
            figure = draw()
            path = folder / f'{self.name}-{name}.png'
            save_figure(figure, path, dpi=110, metadata={'Software': None})
            written.append(path)
        parts = [(folder.parent / 'BENCHMARKS.md', self.markdown(folder.name))]
        if self.short is not None:
            parts.append((folder.parent.parent / 'README.md', self.short.markdown()))
        written += [document for document, text in parts
                    if document.is_file() and replace_part(document, self.name, text)]
        return written

    def markdown(self, folder: str) -> str:
        """Return what stands in the document: the run's facts, tables, pictures."""
        machine = self.facts['machine']
        lines = [f"`{self.facts['command']}`, " + ', '.join(
            f'{key.replace("_", " ")} {value}' for key, value in machine.items()) + '.']
        if self.lines:
            lines = [*(f'- {line}' for line in self.lines), '', *lines]
        for table in self.tables:
            lines += ['', table.markdown()]
        for name in self.figures:
            lines += ['', f'![{self.captions[name]}]({folder}/{self.name}-{name}.png)',
                      '', self.captions[name]]
        return '\n'.join(lines)


def replace_part(document: Path, name: str, text: str) -> bool:
    """Put text between a document's marks for `name`; tell whether it has them."""
    content = document.read_text(encoding='utf-8')
    begin, end = f'<!-- {name}: written by the tool -->', f'<!-- {name}: end -->'
    head, found, rest = content.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        return False
    replace_file(document, [f'{head}{begin}\n\n{text}\n\n{end}{tail}'.encode()])
    return True


def _plain(value):
    """Reduce to what JSON has: numpy's numbers to Python's, six digits, NaN to None."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if hasattr(value, 'item'):
        value = value.item()
    if isinstance(value, float):
        return float(f'{value:.6g}') if math.isfinite(value) else None
    return value
