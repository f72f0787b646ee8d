# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Vision-language models that stay on flash: only the neurons a frame needs are read.

`Session` is what most users need; it is imported on first use, since it brings torch along.
"""

import os

# Read when torch is loaded. By default its threads spin while they wait for each other, and take
# the cores from the reader's (a word took 1.5 times as long) and from the robot, where cores are
# shared (answers took up to thirty times as long).
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

__all__ = ['Session', '__version__']
__version__ = '0.1.0'


def __getattr__(name: str):
    if name == 'Session':
        from neuron_chunk_ros.engine.session import Session
        return Session
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
