# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The `neuron_chunk_demo` command: a camera, the real node, 24 questions, and the truth."""

import argparse
import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from neuron_chunk_ros.errors import NeuronChunkError
from neuron_chunk_ros.node.loaded_model import bundle_path
from neuron_chunk_ros.programs.child_process import ChildProcess
from neuron_chunk_ros.programs.demo import report
from neuron_chunk_ros.programs.demo.report import Asked
from neuron_chunk_ros.programs.demo.scene_stream import nth_scene
from neuron_chunk_ros.programs.private_domain import private_environment
from neuron_chunk_ros.tabletop.questions import SINGLE_VIEW, ask
from neuron_chunk_ros.tabletop.scenes import render

PER_TYPE = 4
ENOUGH = 20
_READY_TIMEOUT = 180.0
_ANSWER_TIMEOUT = 60.0
_FRAME_TIMEOUT = 5.0
# Larger images fill DDS's shared memory, and everything else then waits for retransmission.
_CAMERA = ['-p', 'scene_period:=0.0', '-p', 'rate:=30.0', '-p', 'width:=320', '-p', 'height:=240']


class DemoError(NeuronChunkError):
    """A node ended, or didn't answer in time."""


def _arguments(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='neuron_chunk_demo', description=__doc__,
        epilog='The demo keeps to this machine and to a ROS domain that is not in use '
               '(it sets ROS_DOMAIN_ID for itself and its nodes), so a robot nearby sees nothing '
               'of it. It fails (exit code 1) when fewer than 20 answers are right.')
    parser.add_argument('--out', type=Path, default=Path('demo_out'), metavar='FOLDER',
                        help='where pictures go (default: demo_out)')
    parser.add_argument('--seed', type=int, default=1, help='other seeds show other scenes')
    parser.add_argument('--policy', default='dense',
                        choices=('dense', 'topk', 'greedy', 'optimal'),
                        help='which rows the node reads (default: dense)')
    parser.add_argument('--sparsity', type=float, default=0.0,
                        help='share of the rows not read (default: 0)')
    parsed = parser.parse_args(args)
    if not 0 <= parsed.sparsity <= 0.95:
        parser.error('--sparsity must be from 0 to 0.95')
    if parsed.seed < 0:
        parser.error('--seed must not be negative')
    return parsed


def _watch(children: list[ChildProcess]):
    def alive():
        for child in children:
            code = child.exit_code()
            if code is not None:
                raise DemoError(f'{child.module} ended with exit code {code}')
    return alive


def _ask_all(client, seed: int) -> list[Asked]:
    rng = np.random.default_rng(seed)
    asked: list[Asked] = []
    index = 0
    print(report.header(), flush=True)
    for kind in [kind for kind in SINGLE_VIEW for _ in range(PER_TYPE)]:
        question = ask(nth_scene(seed, index), rng, kind)
        while question is None:
            index = client.show_next_scene()
            question = ask(nth_scene(seed, index), rng, kind)
        asked.append(_ask_one(client, question, nth_scene(seed, index), index))
        print(report.row(len(asked), asked[-1]), flush=True)
        if len(asked) < PER_TYPE * len(SINGLE_VIEW):
            index = client.show_next_scene()
    return asked


def _ask_one(client, question, scene, index: int) -> Asked:
    limit = time.monotonic() + _FRAME_TIMEOUT
    while True:
        response, seconds = client.ask(question.text, _ANSWER_TIMEOUT)
        answer, failure = response.answer, '' if response.success else response.message
        # The truth is that of the frame the answer names. A frame that comes late leaves the node
        # with none, or with the scene before, about which this question means nothing.
        if response.success and client.scene_at(answer.header.stamp) != index:
            failure = 'answered about another scene'
        if not failure or time.monotonic() > limit:
            break
        time.sleep(0.1)
    if failure:
        print(f'   {failure}', flush=True)
    return Asked(question.type, question.text, answer.text, question.answer, seconds,
                 answer.io.bytes_read, answer.io.chunks, answer.io.direct_io, render(scene),
                 failure)


def _converse(options: argparse.Namespace) -> list[Asked]:
    environment = private_environment()
    # Before rclpy: it reads the domain when it starts.
    os.environ.update(environment)
    from neuron_chunk_ros.programs.demo.client import DemoClient
    with ExitStack() as stack:
        print(f"starting the node and the camera (ROS domain {environment['ROS_DOMAIN_ID']}, "
              'this machine only)', flush=True)
        node = stack.enter_context(ChildProcess(
            'neuron_chunk_ros.node.main',
            ['-p', f'policy:={options.policy}', '-p', f'sparsity:={float(options.sparsity)}'],
            environment))
        camera = stack.enter_context(ChildProcess(
            'neuron_chunk_ros.programs.demo.tabletop_publisher',
            [*_CAMERA, '-p', f'seed:={options.seed}'], environment))
        client = DemoClient(_watch([node, camera]))
        stack.callback(client.close)
        try:
            client.wait_until_ready(_READY_TIMEOUT)
            return _ask_all(client, options.seed)
        except (DemoError, TimeoutError):
            for child in (node, camera):
                print(f'--- output of {child.module}:\n{child.output()}', file=sys.stderr)
            raise


def _draw(options: argparse.Namespace, asked: list[Asked]):
    from neuron_chunk_ros.engine.session import Session
    from neuron_chunk_ros.programs.demo import pictures
    for number, one in enumerate(asked, start=1):
        pictures.annotate(one).save(options.out / f'{number:02}_{one.type}.png')
    pictures.overview(asked).save(options.out / 'overview.png')
    answers = {}
    for policy, sparsity in (('dense', 0.0), ('topk', 0.5), ('greedy', 0.5)):
        session = Session.open(bundle_path('tabletop'), policy=policy, sparsity=sparsity)
        try:
            answer = session.ask(asked[0].question, [asked[0].image])
        finally:
            session.close()
        answers[f'{policy}, {sparsity:.0%} left out' if sparsity else policy] = answer
    pictures.draw_contiguity(answers, options.out / 'contiguity.png')


def _interrupt(*_):
    raise KeyboardInterrupt


def main(args: list[str] | None = None) -> int:
    """Run the demo; return 0 where at least 20 answers were right."""
    options = _arguments(args)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        asked = _converse(options)
        _draw(options, asked)
    except KeyboardInterrupt:
        print('demo: interrupted', file=sys.stderr)
        return 130
    except (NeuronChunkError, TimeoutError, OSError) as error:
        print(f'demo: error: {error}', file=sys.stderr)
        return 1
    print(f'pictures: {options.out.resolve()}')
    print(report.summary(asked))
    return 0 if sum(one.right for one in asked) >= ENOUGH else 1


if __name__ == '__main__':
    sys.exit(main())
