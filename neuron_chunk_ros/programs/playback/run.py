# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One playback from beginning to end: bag, node, frames and questions, and the result's folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack

from neuron_chunk_ros.programs.child_process import ChildProcess
from neuron_chunk_ros.programs.playback import cameras as camera_choice
from neuron_chunk_ros.programs.playback.cameras import Camera
from neuron_chunk_ros.programs.playback.clock import BagClock
from neuron_chunk_ros.programs.playback.options import PlaybackOptions, PlayError
from neuron_chunk_ros.programs.playback.player import Player
from neuron_chunk_ros.programs.playback.recording import COMPRESSED, Recording
from neuron_chunk_ros.programs.playback.results import Results
from neuron_chunk_ros.programs.private_domain import private_environment

# A large model is loaded from flash first.
_START_TIMEOUT = 300.0
_LIVE_TIMEOUT = 15.0
_TAIL_LINES = 20


def play(options: PlaybackOptions, say: Callable[[str], None]) -> Results:
    """Play a bag through a node, write what came of it, and return that.

    Interrupted, or when node or bag fail on the way, it writes what there is; `ending` tells.

    :param say: takes lines for the user while it runs.
    :raises PlayError: nothing could be played.
    """
    options.check()
    with Recording(options.bag) as recording:
        chosen = camera_choice.choose(recording, options.topics)
        start, stop = _span(recording, options)
        with ExitStack() as stack:
            results = _run(options, recording, chosen, start, stop, stack, say)
    # Late: drawing needs matplotlib, which a bag that can't be played shouldn't wait for.
    from neuron_chunk_ros.programs.playback import output
    output.write(results)
    return results


def _span(recording: Recording, options: PlaybackOptions) -> tuple[int, int]:
    """Return the times to play from and to [ns]; refuse a span without anything in it."""
    length = (recording.end - recording.start) / 1e9
    if options.start >= length:
        raise PlayError(f'start is {options.start:g} s, the bag is {length:.1f} s long')
    start = recording.start + round(options.start * 1e9)
    stop = recording.end
    if options.duration is not None:
        stop = min(stop, start + round(options.duration * 1e9))
    first, last = (start - recording.start) / 1e9, (stop - recording.start) / 1e9
    for question in options.questions:
        if not first <= question.at <= last:
            raise PlayError(f"'{question.text}' is to be asked at {question.at:g} s, but "
                            f'{first:.1f} to {last:.1f} s of the bag are played')
    return start, stop


def _run(options: PlaybackOptions, recording: Recording, chosen: list[Camera], start: int,
         stop: int, stack: ExitStack, say) -> Results:
    topics = [camera.topic for camera in chosen]
    frames = recording.frames(topics, start, stop)
    first = next(frames, None)
    if first is None:
        raise PlayError(f'{options.bag}: no images between {(start - recording.start) / 1e9:.1f} '
                        f'and {(stop - recording.start) / 1e9:.1f} s')
    names = ', '.join(str(topic) for topic in topics)
    name = '/' + options.node.strip('/')
    child = None
    if options.live:
        say(f'{options.bag}: {names}, into the running {name}')
    else:
        environment = private_environment()
        # Before rclpy starts: it reads the domain then.
        os.environ.update(environment)
        say(f'{options.bag}: {names}; starting the node (ROS domain '
            f"{environment['ROS_DOMAIN_ID']}, this machine only)")
        child = stack.enter_context(ChildProcess(
            'neuron_chunk_ros.node.main', _node_arguments(options, chosen), environment))
    alive = _watch(child)
    clock = BagClock(options.rate)
    from neuron_chunk_ros.programs.playback.link import Link
    link = Link(name, clock, alive)
    stack.callback(link.close)
    if child is None:
        domain = os.environ.get('ROS_DOMAIN_ID') or '0'
        link.wait_for_node(_LIVE_TIMEOUT, f'is it running and active, in ROS domain {domain}?')
        inputs = link.find_inputs(chosen, _LIVE_TIMEOUT)
    else:
        link.wait_for_node(_START_TIMEOUT, 'it may still be loading its model')
        inputs = {topic.name: topic.name for topic in topics}
    link.open_inputs(chosen, inputs, _LIVE_TIMEOUT)
    player = Player(link, clock, alive, recording.start, options.questions,
                    bool(options.standing), say)
    ending = None
    try:
        say(f'playing {(stop - start) / 1e9:.1f} s {options.pace}')
        player.play(_chain(first, frames))
        player.drain(options.drain)
    except (KeyboardInterrupt, SystemExit, PlayError) as error:
        ending = error
    return Results(options, recording.storage, recording.start, player.played, dict(link.heard),
                   link.topics, player.refused, player.behind, recording.unreadable, ending)


def _chain(first, rest):
    yield first
    yield from rest


def _node_arguments(options: PlaybackOptions, chosen: list[Camera]) -> list[str]:
    """Return what comes after --ros-args for the node to be started."""
    parameters = list(options.parameters)
    arguments = []
    if chosen[0].topic.type == COMPRESSED:
        parameters.append('image_transport:=compressed')
    if chosen[0].name:
        parameters.append(f'cameras:={_yaml([camera.name for camera in chosen])}')
        parameters += [f'{camera.name}.topic:={_yaml(camera.topic.name)}' for camera in chosen]
    else:
        arguments += ['-r', f'image:={chosen[0].topic.name}']
    # On a busy machine a frame of 900 kB is easily lost on best effort.
    parameters += [f'qos_overrides.{camera.topic.name}.subscription.reliability:=reliable'
                   for camera in chosen]
    if options.standing:
        parameters.append(f'watch:={_yaml(list(options.standing))}')
        parameters.append(f'watch_rate:={float(options.standing_rate)}')
    for parameter in parameters:
        arguments += ['-p', parameter]
    return arguments


def _yaml(value) -> str:
    """Write strings so that YAML takes them for strings, whatever is in them."""
    return json.dumps(value, ensure_ascii=False)


def _watch(child: ChildProcess | None) -> Callable[[], None]:
    def alive():
        code = None if child is None else child.exit_code()
        if code is not None:
            tail = child.output().rstrip().splitlines()[-_TAIL_LINES:]
            print('\n'.join(["--- the node's last lines:", *tail]), file=sys.stderr)
            raise PlayError(f'the node ended with exit code {code}')
    return alive
