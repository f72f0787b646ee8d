# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Real nodes as real processes, and a client that talks to them over DDS."""

import os

import pytest

from neuron_chunk_ros.prepare.convert import convert
from neuron_chunk_ros.prepare.synthesize import synthesize
from neuron_chunk_ros.programs.private_domain import private_environment
from neuron_chunk_ros.tabletop.scenes import Scene, Thing, render

# Before anything starts rclpy: each test process gets a ROS domain of its own.
os.environ.update(private_environment())

from node_client import Client, VlmProcess, image  # noqa: E402

_SHARED = pytest.StashKey[dict]()


def _once(request, name, make):
    """Return what two folders' fixtures of one name share; it lives as long as all tests."""
    shared = request.config.stash.setdefault(_SHARED, {})
    if name not in shared:
        shared[name] = made = make().__enter__()
        request.config.add_cleanup(lambda: made.__exit__(None, None, None))
    return shared[name]


@pytest.fixture(scope='session')
def client(request):
    """One rclpy node for the whole test session, spun in a thread."""
    return _once(request, 'client', Client)


@pytest.fixture(scope='session')
def vlm(request, client):
    """The tabletop model behind a node that lives as long as the tests."""
    process = _once(request, 'vlm', lambda: VlmProcess(client, 'vlm'))
    process.wait_until_ready()
    return process


@pytest.fixture
def picture():
    """A red circle and a blue square on a plain table, small enough for shared memory."""
    things = (Thing('red', 'circle', 0.3, 0.4, 0.28, 0.0),
              Thing('blue', 'square', 0.7, 0.6, 0.25, 0.0))
    scene = Scene(things, 'plain', ((120, 120, 120), (120, 120, 120)), 1)
    return image(render(scene, (320, 240)))


@pytest.fixture(scope='session')
def long_answers(tmp_path_factory):
    """Parameters of a node whose model babbles until it is stopped: its weights are random."""
    folder = tmp_path_factory.mktemp('babbler')
    synthesize('tiny-llava-onevision', folder / 'model')
    convert(folder / 'model', folder / 'bundle')
    return {'model': folder / 'bundle'}


@pytest.fixture
def start(client):
    """Start another node: start(name, **parameters); ended with the test."""
    processes = []

    def start(name, **parameters):
        processes.append(VlmProcess(client, name, **parameters))
        processes[-1].wait_until_ready()
        return processes[-1]

    yield start
    for process in processes:
        process.close()
