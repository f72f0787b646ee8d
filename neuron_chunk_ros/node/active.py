# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""All that exists while the node is active: cameras, the worker, and who gives it work."""

from collections.abc import Callable

from rclpy.node import Node

from neuron_chunk_interfaces.msg import Answer
from neuron_chunk_ros.node.annotated import Annotated
from neuron_chunk_ros.node.answering import Answering
from neuron_chunk_ros.node.cameras import Cameras
from neuron_chunk_ros.node.frame_feed import FrameFeed
from neuron_chunk_ros.node.loaded_model import LoadedModel
from neuron_chunk_ros.node.settings import Parameters
from neuron_chunk_ros.node.standing import Standing
from neuron_chunk_ros.node.tally import Tally
from neuron_chunk_ros.node.worker import Worker


class Active:
    """Sees and answers from its making to `close`."""

    def __init__(self, node: Node, model: LoadedModel, parameters: Parameters, tally: Tally,
                 publish: Callable[[Answer], None], annotated: Annotated):
        """`publish`: takes each answer, in the worker's thread."""
        logger = node.get_logger()
        self._tally = tally
        self.worker = Worker(parameters.settings.queue_limit)
        self.cameras = Cameras(node, parameters, lambda camera: self._on_view(camera),
                               self._forget)
        self.answering = Answering(
            model, self.cameras, self.worker, tally, logger, publish, annotated)
        self._standing = Standing(model, self.worker, self.answering, logger, publish)
        self._streaming = None
        self._on_view: Callable[[str], None] = lambda camera: self._standing.on_view()
        if model.stream is not None:
            self._streaming = FrameFeed(model, self.cameras, self.worker, tally, self.answering,
                                        logger, self._standing.on_view)
            self._on_view = self._streaming.on_frame
        # Last: a frame that comes from here on is told to somebody.
        self.cameras.subscribe()

    def reset(self) -> int:
        """Cancel all questions, forget frames and counts; return how many questions that were."""
        cancelled = self.worker.cancel('cancelled by reset')
        self.cameras.clear()
        self._tally.clear()
        self._forget()
        return cancelled

    def _forget(self):
        """Forget what was seen; in a stream between two steps."""
        if self._streaming is not None:
            self.worker.offer('reset', self._streaming.clear)
        self._standing.clear()

    def close(self, reason: str, timeout: float) -> bool:
        """Take no more frames and questions; those under way are cancelled.

        :return: False where a step hasn't ended within the timeout [s].
        """
        self.cameras.close()
        self._standing.ending = reason
        if self._streaming is not None:
            self._streaming.ending = reason
        return self.worker.close(reason, timeout)
