# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Recorded data: a rosbag2 through the real node, its answers in a new bag and on a page."""

from neuron_chunk_ros.programs.playback.options import PlannedQuestion, PlaybackOptions, PlayError
from neuron_chunk_ros.programs.playback.run import play

__all__ = ['PlaybackOptions', 'PlayError', 'PlannedQuestion', 'play']
