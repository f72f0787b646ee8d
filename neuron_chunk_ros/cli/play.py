# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""neuron-chunk play: a recorded bag through the real node, answers and a page of plots out."""

from __future__ import annotations

import argparse
import signal
import sys

from neuron_chunk_ros.cli import arguments
from neuron_chunk_ros.errors import NeuronChunkError

# Frames sent later than this are worth a word [s].
_LATE = 0.2
_PACKAGES = {'rclpy': 'ROS 2', 'neuron_chunk_interfaces': "this package's interfaces",
             'rosbags': "the package 'rosbags' (pip install rosbags)"}


def register(subparsers) -> None:
    """Add the sub-command to the parser of `neuron-chunk`."""
    parser = subparsers.add_parser(
        'play', help='play a recorded bag through the node; answers into a new bag and a page',
        description='Plays the images of a rosbag2 (folder, .db3 or .mcap file) at the pace they '
                    'were recorded through the vlm node, and writes a folder with a new bag '
                    '(answers, telemetry and diagnostics in the time of the old one), '
                    'answers.csv and page.png. The node is started for this, in a ROS domain of '
                    'its own on this machine, so a robot nearby sees nothing of it.')
    parser.add_argument('bag', metavar='BAG', type=arguments.path)
    parser.add_argument('--out', metavar='FOLDER', type=arguments.target,
                        help="what to make (default: BAG's name + _answers)")
    parser.add_argument('--storage', choices=('sqlite3', 'mcap'), default='',
                        help="of the new bag (default: as BAG's)")
    asking = parser.add_argument_group('questions')
    asking.add_argument('--ask', metavar='QUESTION', action='append', default=[],
                        help='asked at every frame the node has time for; may be repeated')
    asking.add_argument('--ask-rate', metavar='HZ', type=arguments.number(0, 1000), default=0.0,
                        help='asked so often instead, in real time')
    asking.add_argument('--at', metavar='SECONDS=QUESTION', type=_question, action='append',
                        default=[], help='asked once, so long after the bag begins')
    frames = parser.add_argument_group('frames')
    frames.add_argument('--topic', metavar='TOPIC', dest='topics', action='append',
                        type=lambda text: ('', text), default=[],
                        help='image topic, where BAG has several; may be repeated: each is a '
                             'camera then')
    frames.add_argument('--camera', metavar='NAME=TOPIC', dest='topics', action='append',
                        type=_camera, help='the same, with a name for the camera')
    frames.add_argument('--rate', type=arguments.number(0, 1000), default=1.0,
                        help='2 is twice as fast (default 1)')
    frames.add_argument('--start', metavar='SECONDS', default=0.0,
                        type=arguments.number(0, arguments.MOST_SECONDS),
                        help='begin so far into the bag')
    frames.add_argument('--duration', metavar='SECONDS',
                        type=arguments.number(0, arguments.MOST_SECONDS), help='play no longer')
    frames.add_argument('--drain', metavar='SECONDS', default=30.0,
                        type=arguments.number(0, arguments.MOST_SECONDS),
                        help='wait at most so long for the last answers (default 30)')
    node = parser.add_argument_group('the node')
    node.add_argument('--model', metavar='BUNDLE_DIR', type=arguments.path_text,
                      help="a bundle, or 'tabletop' (default)")
    node.add_argument('--policy', choices=('dense', 'topk', 'greedy', 'optimal'))
    node.add_argument('--sparsity', type=arguments.fraction,
                      help='fraction of the decoder not read')
    node.add_argument('--mode', choices=('snapshot', 'stream'),
                      help='look at the newest frame when asked, or keep frames in the context')
    node.add_argument('--param', metavar='NAME:=VALUE', action='append', default=[],
                      help='any parameter of the node; may be repeated')
    node.add_argument('--live', action='store_true',
                      help='play into this ROS domain, to a node that runs there already')
    node.add_argument('--node', metavar='NAME', default='vlm',
                      help='its name, with its namespace (default vlm); only with --live')
    parser.set_defaults(run=_play)


def _question(text: str) -> tuple[float, str]:
    at, equals, question = text.partition('=')
    try:
        if equals:
            return arguments.number(0, arguments.MOST_SECONDS)(at), question
    except argparse.ArgumentTypeError:
        pass
    raise argparse.ArgumentTypeError(f"'{text}': write SECONDS=QUESTION")


def _camera(text: str) -> tuple[str, str]:
    name, _, topic = text.partition('=')
    if not (name and topic):
        raise argparse.ArgumentTypeError(f"'{text}': write NAME=TOPIC")
    return name, topic


def _play(args: argparse.Namespace) -> int:
    try:
        return _play_and_report(args)
    except ModuleNotFoundError as error:
        needed = _PACKAGES.get((error.name or '').partition('.')[0])
        if needed is None:
            raise
        raise NeuronChunkError(f'play needs {needed}, which is not installed here') from error


def _play_and_report(args: argparse.Namespace) -> int:
    from neuron_chunk_ros.programs.playback import (
        PlannedQuestion,
        PlaybackOptions,
        PlayError,
        play,
    )
    if args.node != 'vlm' and not args.live:
        raise PlayError('--node names a node that runs already: give --live, too')
    bag = args.bag
    results = play(PlaybackOptions(
        bag=bag, out=args.out or bag.with_name(bag.resolve().stem + '_answers'),
        topics=tuple(args.topics), rate=args.rate, start=args.start, duration=args.duration,
        standing=tuple(args.ask), standing_rate=args.ask_rate,
        questions=tuple(PlannedQuestion(at, text) for at, text in args.at), live=args.live,
        node=args.node, parameters=_parameters(args), storage=args.storage, drain=args.drain),
        say=lambda line: print(line, flush=True))
    return _report(results, PlayError)


def _parameters(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the node's parameters as ROS writes them."""
    given = [f'{name}:={value}' for name in ('model', 'policy', 'sparsity', 'mode')
             if (value := getattr(args, name)) is not None]
    return (*given, *args.param)


def _report(results, error: type[NeuronChunkError]) -> int:
    """Print what was done; return the exit status, or raise what ended it early."""
    for question, reason in results.refused:
        print(f"at {question.at:g} s, '{question.text}': {reason}", file=sys.stderr)
    if results.unreadable:
        print(f'{results.unreadable} image messages are damaged and were left out',
              file=sys.stderr)
    if results.behind > _LATE:
        print(f'frames were sent up to {results.behind:.1f} s late: lower --rate',
              file=sys.stderr)
    median = results.median_seconds
    latency = 'no answers' if median is None else (
        f'{len(results.answers)} answers, {median * 1e3:.0f} ms median')
    early = 'ended early: ' if results.ending is not None else ''
    print(f'{early}{len(results.played)} frames played, {len(results.looks)} looked at, '
          f'{latency}, {results.megabytes:.1f} MB read; {results.options.out}')
    if isinstance(results.ending, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if results.ending is not None:
        raise results.ending
    if not results.answers and (results.options.standing or results.options.questions):
        raise error('no answer came' + (
            f'; the node says: {results.complaint}' if results.complaint else ''))
    return 0
