# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk bench accuracy, read, select: what is chosen, and how fast it is read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from neuron_chunk_ros.cli.arguments import path
from neuron_chunk_ros.cli.bench.arguments import fractions, outputs, positive
from neuron_chunk_ros.cli.bench.running import (
    bars,
    check_decoders,
    check_outputs,
    folder_of,
    given,
    hand_out,
)


def register(commands) -> None:
    """Add the commands to the parser of `neuron-chunk bench`."""
    accuracy = _add(commands, 'accuracy', _accuracy,
                    'accuracy of the shipped model against the time its reads take')
    accuracy.add_argument('--scenes', type=positive, metavar='N',
                          help='scenes of each of three sorts: some eight questions on three')
    accuracy.add_argument('--samples', type=positive, metavar='N',
                          help='scenes to calibrate budgets and order on')
    read = _add(commands, 'read', _read, 'reads of real decoder shapes at equal importance kept')
    read.add_argument('--sources', metavar='NAME', action='append',
                      help='of importance; may be repeated (default: all)')
    for command in (accuracy, read):
        command.add_argument('--sparsities', type=fractions, metavar='A,B,...',
                             help='fractions of rows skipped (default: 0 to 0.7 by tenths)')
    select = _add(commands, 'select', _select, 'the time that choosing rows takes')
    for command in (accuracy, read, select):
        _shared(command)


def _add(commands, name: str, run, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.')
    parser.set_defaults(run=lambda args: _run(args, run))
    return parser


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--path', type=path, metavar='DIR',
                        help='a folder on the storage to measure (default: the cache folder '
                             'that bundles lie in); scratch files there are removed')
    parser.add_argument('--profile', type=path, metavar='FILE',
                        help='storage profile to choose rows by (default: the one in DIR, '
                             'else measured first)')
    parser.add_argument('--decoders', type=lambda text: tuple(text.split(',')),
                        metavar='A,B,...', help='whose shapes (default: all four)')
    outputs(parser, 'end within two minutes: fewer repeats, shapes and levels')


def _run(args: argparse.Namespace, measure: Callable) -> int:
    from neuron_chunk_ros.bench import machine, profiles, shapes
    check_decoders(args, shapes.DECODERS)
    check_outputs(args)
    folder = folder_of(args)
    with bars() as progress:
        profile = profiles.profile_for(folder, args.profile, args.quick, progress)
        facts = {'command': machine.command_line(), 'quick': args.quick,
                 'machine': machine.facts(folder), 'profile': profiles.facts(profile)}
        report = measure(args, folder, profile, facts, progress)
    return hand_out(args, report)


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
    options = read.ReadOptions(folder, profile, **{**quick, **given(
        args, decoders='decoders', sources='sources', sparsities='sparsities',
        repeats='repeats')})
    drawn = read.draw_sources(options.sources, options.frames, options.seed, progress)
    measured = read.measure(options, drawn, progress)
    simulated = read.simulate(options, drawn)
    return read_report.report(options, measured, simulated, {
        **facts, 'readers': measured.facts, 'repeats': options.repeats, 'seed': options.seed})


def _accuracy(args: argparse.Namespace, folder: Path, profile, facts: dict, progress):
    from neuron_chunk_ros.bench import tabletop_model
    from neuron_chunk_ros.bench.accuracy import measure as accuracy
    from neuron_chunk_ros.bench.accuracy import report as accuracy_report
    from neuron_chunk_ros.bench.progress import Counter
    from neuron_chunk_ros.bench.tabletop_exam import tabletop_exam
    quick = dict(decoders=('qwen2-0.5b',), sparsities=(0.0, 0.5, 0.7), repeats=5, scenes=12,
                 samples=6, file_bytes=64 << 20) if args.quick else {}
    options = accuracy.AccuracyOptions(folder, profile, **{**quick, **given(
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


def _select(args: argparse.Namespace, folder: Path, profile, facts: dict, progress):
    from neuron_chunk_ros.bench.read import measure as read
    from neuron_chunk_ros.bench.select import measure as select
    from neuron_chunk_ros.bench.select import report as select_report
    quick = dict(calls=30, frames=40) if args.quick else {}
    options = select.SelectOptions(profile, **{**quick, **given(args, decoders='decoders',
                                                           calls='repeats')})
    source, = read.draw_sources(('recorded',), options.frames, options.seed, progress)
    found = select.measure(options, source, progress)
    return select_report.report(options, found, {**facts, 'calls': options.calls,
                                                 'seed': options.seed})
