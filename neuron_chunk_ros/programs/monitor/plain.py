# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What happens, one line each: for logs, pipes and terminals that can't move the cursor."""

import time

from neuron_chunk_ros.programs.monitor.known import LEVELS, Answered, LevelChange
from neuron_chunk_ros.programs.monitor.texts import percent, seconds


def line(event: Answered | LevelChange) -> str:
    """Return the line for an answer or for a change of a diagnostic level."""
    if isinstance(event, LevelChange):
        was = '' if event.before is None else f' (was {LEVELS[event.before]})'
        part = event.part
        return stamped(event.wall, f'{LEVELS[part.level]} {part.name}: {part.message}{was}')
    asked = 'standing answer' if event.standing else 'answer'
    cameras = f' [{", ".join(event.cameras)}]' if event.cameras else ''
    remark = f' [{event.remark}]' if event.remark else ''
    return stamped(event.wall, f'{asked} in {seconds(event.seconds)}, confidence '
                               f'{percent(event.confidence)}{cameras}: "{event.prompt}" -> '
                               f'"{event.text}"{remark}')


def stamped(wall: float, text: str) -> str:
    """Put the time of day in front."""
    return f'{time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall))} {text}'
