# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The `vlm` node's topics and services, wired to the session, the worker and diagnostics."""

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.node import Node
from std_srvs.srv import Trigger

from neuron_chunk_interfaces.msg import Answer, IoTelemetry
from neuron_chunk_interfaces.srv import Query
from neuron_chunk_ros.node import statuses
from neuron_chunk_ros.node.answering import Answering
from neuron_chunk_ros.node.diagnostics import Diagnostics
from neuron_chunk_ros.node.frames import Frames
from neuron_chunk_ros.node.parameters import Settings
from neuron_chunk_ros.node.qos import RESULTS
from neuron_chunk_ros.node.tally import Tally
from neuron_chunk_ros.node.worker import Worker


class Vlm:
    """Everything the node offers once its model is loaded."""

    def __init__(self, node: Node, session, settings: Settings):
        self._session = session
        self._settings = settings
        self._tally = Tally()
        self._worker = Worker(settings.queue_limit)
        self._frames = Frames(node, settings.image_transport)
        answers = node.create_publisher(Answer, '~/answer', RESULTS)
        telemetry = node.create_publisher(IoTelemetry, '~/telemetry', RESULTS)
        answering = Answering(
            session, settings, self._frames, self._worker, self._tally, node.get_logger(),
            telemetry.publish, answers.publish)
        self._diagnostics = Diagnostics(node, settings.diagnostics_period, {
            'storage': lambda: statuses.storage(
                self._tally.now(), session, settings.direct_io),
            'model': self._model_status,
            'frames': lambda: statuses.frames(self._frames.report(), settings.frame_timeout),
            'memory': lambda: statuses.memory(session.memory(), settings.memory_budget_mb),
        })
        # Each waiting question holds one executor thread: they need a group that lets them.
        node.create_service(Query, '~/query', answering.query,
                            callback_group=ReentrantCallbackGroup())
        node.create_service(Trigger, '~/reset', self._reset,
                            callback_group=MutuallyExclusiveCallbackGroup())

    @staticmethod
    def executor_threads(settings: Settings) -> int:
        """Return how many threads the executor needs so that questions never starve the rest.

        One for the question being answered and for each that waits; one each for a question to
        be refused, frames, diagnostics, reset and the parameter services.
        """
        return 1 + settings.queue_limit + 5

    def close(self, timeout: float) -> bool:
        """Cancel all questions; False where the running one hasn't ended in time [s]."""
        return self._worker.close('the node is shutting down', timeout)

    def _model_status(self) -> statuses.Status:
        session = self._session
        about = {'model': session.model_name, 'policy': session.policy,
                 'sparsity': session.sparsity}
        return statuses.model(
            self._tally.now(), self._worker.load(), self._settings.queue_limit, about)

    def _reset(self, _, response: Trigger.Response) -> Trigger.Response:
        cancelled = self._worker.cancel('cancelled by reset')
        self._frames.clear()
        self._tally.clear()
        response.success = True
        response.message = (f'{cancelled} questions cancelled; newest frame, counts and errors '
                            'forgotten')
        return response
