# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which of a bag's image topics are played, and what their cameras are called."""

from __future__ import annotations

from dataclasses import dataclass

from neuron_chunk_ros.programs.playback.options import PlayError
from neuron_chunk_ros.programs.playback.recording import ImageTopic, Recording

# Ends of topic names that tell what is sent rather than who sends it.
_GENERIC = ('image', 'compressed', 'color', 'colour', 'rgb', 'raw', 'rect', 'mono')


@dataclass(frozen=True)
class Camera:
    """An image topic to be played; the name is empty for the only camera of a node."""

    name: str
    topic: ImageTopic


def choose(recording: Recording, wanted: tuple[tuple[str, str], ...]) -> list[Camera]:
    """Return the cameras to play: those wanted, or the bag's only one that isn't depth.

    :param wanted: (name or '', topic) pairs.
    :raises PlayError: no images, several to choose from, or no such topic.
    """
    if not recording.images:
        raise PlayError(f'{recording.path}: the bag holds no images, only '
                        f'{recording.contents()}')
    listed = ', '.join(map(str, recording.images))
    if not wanted:
        found = [t for t in recording.images if not recording.is_depth(t)]
        if len(found) != 1:
            what = 'only depth images' if not found else 'several image topics'
            raise PlayError(f'{recording.path}: the bag holds {what}: choose with --topic from '
                            f'{listed}')
        return [Camera('', found[0])]
    topics = {topic.name: topic for topic in recording.images}
    for _, name in wanted:
        if name not in topics:
            raise PlayError(f'{recording.path}: no images on {name}: the bag holds {listed}')
    if len({topics[name].type for _, name in wanted}) > 1:
        raise PlayError(f'raw and compressed images together: choose one kind from {listed}')
    if len(wanted) == 1:
        return [Camera(wanted[0][0], topics[wanted[0][1]])]
    names = [name or derived_name(topic) for name, topic in wanted]
    for name, (_, topic) in zip(names, wanted, strict=True):
        if names.count(name) > 1:
            raise PlayError(f"'{name}' would be the name of several cameras: name them with "
                            f'--camera NAME={topic}')
    return [Camera(name, topics[topic]) for name, (_, topic) in zip(names, wanted, strict=True)]


def derived_name(topic: str) -> str:
    """Return what a topic's camera is called: the last part that isn't about the format."""
    parts = [part for part in topic.split('/') if part]
    for part in reversed(parts):
        if part.split('_')[0] not in _GENERIC:
            return part
    return parts[-1]
