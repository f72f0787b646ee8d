# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk bench accuracy, read, select: the method measured the way its paper does."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

_DOCUMENT = Path('docs') / 'BENCHMARKS.md'


def register(subparsers) -> None:
    """Add the sub-commands to the parser of `neuron-chunk`."""
    text = 'measure accuracy, reading and selecting on this machine'
    parser = subparsers.add_parser('bench', help=text, description=f'{text.capitalize()}.')
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    accuracy = _add(commands, 'accuracy', _accuracy,
                    'accuracy of the shipped model against the time its reads take')
    accuracy.add_argument('--scenes', type=_positive, metavar='N',
                          help='scenes of each of three sorts: some eight questions on three')
    accuracy.add_argument('--samples', type=_positive, metavar='N',
                          help='scenes to calibrate budgets and order on')
    read = _add(commands, 'read', _read, 'reads of real decoder shapes at equal importance kept')
    read.add_argument('--sources', metavar='NAME', action='append',
                      help='of importance; may be repeated (default: all)')
    for command in (accuracy, read):
        command.add_argument('--sparsities', type=_fractions, metavar='A,B,...',
                             help='fractions of rows skipped (default: 0 to 0.7 by tenths)')
    select = _add(commands, 'select', _select, 'the time that choosing rows takes')
    for command in (accuracy, read, select):
        _shared(command)


def _add(commands, name: str, run, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.')
    parser.set_defaults(run=lambda args: _run(args, run))
    return parser


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--path', type=Path, metavar='DIR',
                        help='a folder on the storage to measure (default: the cache folder '
                             'that bundles lie in); scratch files there are removed')
    parser.add_argument('--profile', type=Path, metavar='FILE',
                        help='storage profile to choose rows by (default: the one in DIR, '
                             'else measured first)')
    parser.add_argument('--decoders', type=lambda text: tuple(text.split(',')),
                        metavar='A,B,...', help='whose shapes (default: all four)')
    parser.add_argument('--repeats', type=_positive, metavar='N',
                        help='measurements that a median is taken of')
    parser.add_argument('--quick', action='store_true',
                        help='end within two minutes: fewer repeats, shapes and levels')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write every figure there')
    parser.add_argument('--out', type=Path, metavar='DIR',
                        help='write CSV and pictures there (default: docs/benchmarks in a '
                             'checkout, else ./bench; nowhere with --quick)')


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError('must be at least 1')
    return value


def _fractions(text: str) -> tuple[float, ...]:
    values = tuple(sorted({float(part) for part in text.split(',')}))
    if not all(0 <= value < 1 for value in values):
        raise argparse.ArgumentTypeError('fractions must be at least 0 and below 1')
    return values


def _run(args: argparse.Namespace, measure: Callable) -> int:
    from neuron_chunk_ros.bench import machine, profiles, shapes
    from neuron_chunk_ros.bench.scratch import default_folder
    from neuron_chunk_ros.errors import BenchError
    for name in args.decoders or ():
        if name not in shapes.DECODERS:
            raise BenchError(f"no decoder '{name}': choose from {', '.join(shapes.DECODERS)}")
    for path in (args.json, args.out):
        if path is not None and not path.absolute().parent.is_dir():
            raise BenchError(f'{path.absolute().parent}: no such folder to write to')
    folder = (args.path or default_folder()).absolute()
    if not folder.is_dir():
        raise BenchError(f'{folder}: no such folder; --path wants one on the storage to measure')
    with _bars() as progress:
        profile = profiles.profile_for(folder, args.profile, args.quick, progress)
        facts = {'command': machine.command_line(), 'quick': args.quick,
                 'machine': machine.facts(folder), 'profile': profiles.facts(profile)}
        report = measure(args, folder, profile, facts, progress)
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
def _bars() -> Iterator[Callable[[str, int, int], None]]:
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


def _given(args: argparse.Namespace, **names: str) -> dict:
    """Return the options that were given: field -> value."""
    return {field: getattr(args, name) for field, name in names.items()
            if getattr(args, name, None) is not None}


def _read(args: argparse.Namespace, folder: Path, profile, facts: dict, progress):
    from neuron_chunk_ros.bench import read, read_report
    from neuron_chunk_ros.bench.importance import SOURCES
    from neuron_chunk_ros.errors import BenchError
    for name in args.sources or ():
        if name not in SOURCES:
            raise BenchError(f"no source '{name}': choose from {', '.join(map(repr, SOURCES))}")
    quick = dict(decoders=('qwen2-0.5b', 'qwen2-1.5b'), sources=SOURCES[:2] + SOURCES[3:4],
                 sparsities=(0.0, 0.3, 0.5, 0.7), repeats=5, frames=40,
                 file_bytes=128 << 20) if args.quick else {}
    options = read.Options(folder, profile, **{**quick, **_given(
        args, decoders='decoders', sources='sources', sparsities='sparsities',
        repeats='repeats')})
    drawn = read.draw_sources(options.sources, options.frames, options.seed, progress)
    measured = read.measure(options, drawn, progress)
    simulated = read.simulate(options, drawn)
    return read_report.report(options, measured, simulated, {
        **facts, 'readers': measured.facts, 'repeats': options.repeats, 'seed': options.seed})


def _select(args: argparse.Namespace, folder: Path, profile, facts: dict, progress):
    from neuron_chunk_ros.bench import read, select, select_report
    quick = dict(calls=30, frames=40) if args.quick else {}
    options = select.Options(profile, **{**quick, **_given(args, decoders='decoders',
                                                           calls='repeats')})
    source, = read.draw_sources(('recorded',), options.frames, options.seed, progress)
    found = select.measure(options, source, progress)
    return select_report.report(options, found, {**facts, 'calls': options.calls,
                                                 'seed': options.seed})


def _accuracy(args: argparse.Namespace, folder: Path, profile, facts: dict, progress):
    from neuron_chunk_ros.bench import accuracy, accuracy_report, tabletop_model
    from neuron_chunk_ros.bench.exam import Exam
    from neuron_chunk_ros.bench.progress import Counter
    quick = dict(decoders=('qwen2-0.5b',), sparsities=(0.0, 0.5, 0.7), repeats=5, scenes=12,
                 samples=6, file_bytes=64 << 20) if args.quick else {}
    options = accuracy.Options(folder, profile, **{**quick, **_given(
        args, decoders='decoders', scenes='scenes', samples='samples', sparsities='sparsities',
        repeats='repeats')})
    calibrated = tabletop_model.calibrated(
        options.samples, options.calibration_seed,
        lambda done, total: progress('calibrating', done, total))
    model = tabletop_model.load()
    exam = Exam(model, options.scenes, options.seed,
                Counter('drawing scenes', 0, progress))
    evaluation = accuracy.Evaluation(options, model, exam, calibrated,
                                     accuracy.block_size(folder, options.backend))
    answered = Counter('answering', len(evaluation.keys()), progress)
    for key in evaluation.keys():
        evaluation.outcome(*key)
        answered()
    timed, readers = accuracy.measure(options, evaluation, progress)
    return accuracy_report.report(options, evaluation, exam, timed, {
        **facts, 'readers': readers, 'repeats': options.repeats, 'seed': options.seed,
        'questions': len(exam), 'frames': exam.frames, 'calibration_samples': options.samples})
