# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""An environment in which ROS nodes meet only each other, on this machine."""

import os
import socket

# DDS's well-known ports: 7400 + 250 * domain, + 10 for the first participant's discovery.
# Ids up to 101 stay below Linux's ephemeral ports.
_IDS = range(1, 102)


def _taken(domain: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(('', 7400 + 250 * domain + 10))
        except OSError:
            return True
    return False


def private_environment() -> dict[str, str]:
    """Return the variables that keep ROS traffic on this machine and in an unused domain."""
    start = os.getpid() % len(_IDS)
    ids = [*_IDS[start:], *_IDS[:start]]
    domain = next((i for i in ids if not _taken(i)), ids[0])
    environment = {'ROS_DOMAIN_ID': str(domain)}
    if os.environ.get('ROS_DISTRO') in ('foxy', 'galactic', 'humble'):
        environment['ROS_LOCALHOST_ONLY'] = '1'
    else:
        environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    return environment
