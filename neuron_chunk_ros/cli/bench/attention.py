# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk bench attention."""

from __future__ import annotations

import argparse

from neuron_chunk_ros.cli.arguments import path
from neuron_chunk_ros.cli.bench.arguments import outputs, positive
from neuron_chunk_ros.cli.bench.running import bars, check_outputs, folder_of, given, hand_out


def register(commands) -> None:
    """Add the command to the parser of `neuron-chunk bench`."""
    text = 'what classes of heads (BlindSight) cost in answers and save in time'
    parser = commands.add_parser('attention', help=text,
                                 description=text[0].upper() + text[1:] + '.')
    parser.set_defaults(run=_run)
    parser.add_argument('--path', type=path, metavar='DIR', help=argparse.SUPPRESS)
    parser.add_argument('--bundle', type=path, metavar='BUNDLE_DIR',
                        help='time whole passes of its decoder over prompts with images, too')
    parser.add_argument('--scenes', type=positive, metavar='N',
                        help='of each sort asked about (default 400)')
    parser.add_argument('--prompts', type=positive, metavar='N',
                        help='to characterise on (default 48)')
    parser.add_argument('--schedule', choices=('constant', 'linear'),
                        help='of the tolerance over the layers (default constant)')
    outputs(parser, 'few scenes and images')


def _run(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.attention.templates import DENSE
    from neuron_chunk_ros.bench import machine
    from neuron_chunk_ros.bench.attention import accuracy, report, speed
    from neuron_chunk_ros.prepare.characterize import classes_of
    from neuron_chunk_ros.storage.bundle import Bundle
    check_outputs(args)
    folder = folder_of(args)
    if args.bundle is not None:
        Bundle.open(args.bundle)  # before anything slow
    few = dict(scenes=8, prompts=4, tolerances=(0.1, 1.0)) if args.quick else {}
    asked = accuracy.AccuracyOptions(**{**few, **given(
        args, scenes='scenes', prompts='prompts', schedule='schedule')})
    few = dict(images=(4,), tokens=(196,), long=0, views=(4,), repeats=3) if args.quick else {}
    timed = speed.SpeedOptions(**{**few, **given(args, repeats='repeats')})
    with bars() as progress:
        kept, facts = accuracy.measure(asked, progress)
        within = [one.tolerance for one in kept if one.drift <= report.MOST_DRIFT]
        heard = facts.pop('heard')
        classes = (classes_of(heard, max(within), asked.schedule) if within
                   else [[DENSE] * facts['heads']] * facts['layers'])
        table = [kind for layer in classes for kind in layer]
        seconds = speed.measure(timed, table, progress)
        if args.bundle is not None:
            seconds += speed.prefill(args.bundle, timed, table, progress)
    return hand_out(args, report.report(kept, seconds, {
        'command': machine.command_line(), 'quick': args.quick,
        'machine': machine.facts(folder), **facts}, asked.seed))
