# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What running a benchmark takes: a folder, bars, and handing out what was found."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from neuron_chunk_ros.cli.arguments import check_output

_DOCUMENT = Path('docs') / 'BENCHMARKS.md'


def check_decoders(args: argparse.Namespace, known) -> None:
    """Raise BenchError for a name that is not known."""
    from neuron_chunk_ros.errors import BenchError
    for name in args.decoders or ():
        if name not in known:
            raise BenchError(f"no decoder '{name}': choose from {', '.join(known)}")


def folder_of(args: argparse.Namespace) -> Path:
    """Return the folder to measure in. Raises BenchError where there is none."""
    from neuron_chunk_ros.cache import cache_folder
    from neuron_chunk_ros.errors import BenchError
    folder = (args.path or cache_folder()).absolute()
    if args.path is None:
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        raise BenchError(f'{folder}: no such folder; --path wants one on the storage to measure')
    return folder


def check_outputs(args: argparse.Namespace) -> None:
    """Raise BenchError or RequestError for what can't be written, before anything slow."""
    from neuron_chunk_ros.errors import BenchError
    check_output(args.json, getattr(args, 'profile', None))
    out = args.out
    if out is not None and not out.absolute().parent.is_dir():
        raise BenchError(f'{out.absolute().parent}: no such folder to write to')
    if out is not None and out.exists() and not out.is_dir():
        raise BenchError(f'{out} is no folder: give --out one to write to')


def hand_out(args: argparse.Namespace, report) -> int:
    """Print a report, write its files where wanted; return the exit status."""
    print(report.text())
    if args.json is not None:
        report.write_json(args.json)
    out = args.out or (None if args.quick else _default_out())
    if out is not None:
        for path in report.write_files(out):
            print(path)
    return 0


def _default_out() -> Path:
    return _DOCUMENT.parent / 'benchmarks' if _DOCUMENT.is_file() else Path('bench')


@contextlib.contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each thing that is done, while stderr is a terminal."""
    from tqdm import tqdm
    with tqdm(disable=None, leave=False) as bar:
        shown = ''

        def show(label: str, done: int, total: int) -> None:
            nonlocal shown
            if label != shown:
                shown = label
                bar.reset(total or None)
                bar.set_description(label)
            bar.update(done - bar.n)
        yield show


def given(args: argparse.Namespace, **names: str) -> dict:
    """Return the options that were given: field -> value."""
    return {field: getattr(args, name) for field, name in names.items()
            if getattr(args, name, None) is not None}
