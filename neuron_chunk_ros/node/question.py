# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A question as the node understands it, wherever it came from, and what became of it."""

import math
from dataclasses import dataclass

from neuron_chunk_interfaces.msg import Answer
from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.limits import Limits, check_images, check_length

MAX_TOKENS = 4096
MAX_CAMERAS = 64


@dataclass(frozen=True)
class Question:
    """What is asked; checked, but for what only the model can tell."""

    prompt: str
    images: tuple = ()          # sensor_msgs/Image; none: what the cameras see
    cameras: tuple[str, ...] = ()
    deadline: float | None = None  # seconds from its arrival
    max_new_tokens: int = 0     # 0: as the node's parameter says
    refuse_late: bool = False
    standing: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of its images, as they came."""
        return sum(len(image.data) for image in self.images)

    @classmethod
    def of(cls, request, limits: Limits) -> 'Question':
        """Check a Query request or an Ask goal. Raises RequestError."""
        if not request.prompt.strip():
            raise RequestError('the prompt is empty: ask something')
        check_length(request.prompt, limits)
        check_images([(image.height, image.width) for image in request.images], limits)
        if not math.isfinite(request.deadline) or request.deadline < 0:
            raise RequestError(f'deadline is {request.deadline:g} s: give seconds from the '
                               "request's arrival, or 0 for no limit")
        if request.max_new_tokens > MAX_TOKENS:
            raise RequestError(f'max_new_tokens is {request.max_new_tokens}: at most '
                               f"{MAX_TOKENS}, or 0 for the node's own limit")
        if request.images and request.cameras:
            raise RequestError('the question has images and names cameras: give one of them')
        if len(request.cameras) > MAX_CAMERAS:
            raise RequestError(f'the question names {len(request.cameras)} cameras, '
                               f'{MAX_CAMERAS} are allowed')
        return cls(request.prompt, tuple(request.images), tuple(request.cameras),
                   request.deadline or None, request.max_new_tokens, request.refuse_late)


@dataclass(frozen=True)
class Outcome:
    """What the asker gets: an answer, or one line that says why not."""

    answer: Answer | None
    message: str = ''
    cancelled: bool = False

    def fill(self, response):
        """Write it into a Query response or an Ask result, and return that."""
        response.success = self.answer is not None and not self.cancelled
        response.message = self.message
        if self.answer is not None:
            response.answer = self.answer
        return response
