# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node shows to others, in every state: topics, services, the action, diagnostics."""

import gc
import time
from collections.abc import Callable

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.node import Node
from std_srvs.srv import Trigger

from neuron_chunk_interfaces.msg import Answer, IoTelemetry
from neuron_chunk_interfaces.srv import Query
from neuron_chunk_ros.node.active import Active
from neuron_chunk_ros.node.annotated import Annotated
from neuron_chunk_ros.node.ask_action import AskAction
from neuron_chunk_ros.node.diagnostics import Diagnostics, statuses, thermal
from neuron_chunk_ros.node.gone import Gone
from neuron_chunk_ros.node.loaded_model import LoadedModel
from neuron_chunk_ros.node.model_loading import open_session
from neuron_chunk_ros.node.qos import RESULTS
from neuron_chunk_ros.node.question import Outcome
from neuron_chunk_ros.node.settings import Parameters
from neuron_chunk_ros.node.tally import Tally

# How often a load that takes long is told of [s].
_PROGRESS = 2.0


class Vlm:
    """The node's outside. What is behind it comes and goes: `load`, `activate`, and back.

    Services stay in every state, so that who asks too early is told so. None of the four may be
    called while another is under way.
    """

    def __init__(self, node: Node, parameters: Parameters, state: Callable[[], str],
                 failure: Callable[[], str]):
        """Make it all.

        :param state: tells the lifecycle state's label.
        :param failure: tells why the last transition failed, '' where it didn't.
        """
        self._node, self._parameters, self._state = node, parameters, state
        self._settings, self._failure = parameters.settings, failure
        self._tally = Tally()
        self._model: LoadedModel | None = None
        self._active: Active | None = None
        self._loaded = 0.0
        self._answers = node.create_publisher(Answer, '~/answer', RESULTS)
        self._telemetry = node.create_publisher(IoTelemetry, '~/telemetry', RESULTS)
        self._annotated = Annotated(node)
        # Each waiting question holds one executor thread: they need a group that lets them.
        self._query_service = node.create_service(
            Query, '~/query', self._query, callback_group=ReentrantCallbackGroup())
        node.create_service(Trigger, '~/reset', self._reset,
                            callback_group=MutuallyExclusiveCallbackGroup())
        AskAction(node, self._answer)
        Diagnostics(node, self._settings.diagnostics_period, self._tasks)

    @staticmethod
    def executor_threads(queue_limit: int) -> int:
        """Return how many threads the executor needs so that questions never starve the rest.

        One for the question being answered and for each that waits; one each for a question to
        be refused, frames, diagnostics and their heartbeat, reset, a transition and parameters.
        """
        return 1 + queue_limit + 7

    def load(self):
        """Load the model. Raises NeuronChunkError."""
        logger, settings = self._node.get_logger(), self._settings
        logger.info(f"loading model '{settings.model}'")

        told = 0.0

        def progress(share: float):
            nonlocal told
            now, self._loaded = time.monotonic(), share
            told = told or now
            if now - told > _PROGRESS:
                told = now
                logger.info(f'loading: {share:.0%}')

        self._loaded = 0.0
        session = open_session(settings, progress)
        try:
            self._model = LoadedModel(
                session, settings, self._telemetry.publish, logger)
        except BaseException:
            session.close()
            raise
        self._parameters.check_model = self._model.check
        self._parameters.configured = True
        # All of torch is never garbage, but looking for some there stops every thread for half a
        # second, again and again.
        gc.collect()
        gc.freeze()

    def activate(self):
        """Subscribe to the cameras and begin to answer."""
        self._active = Active(self._node, self._model, self._parameters, self._tally,
                              self._answers.publish, self._annotated)

    def deactivate(self, reason: str, timeout: float) -> bool:
        """Stop seeing and answering; the model stays.

        :return: False where a step hasn't ended within the timeout [s].
        """
        # Out of sight first: diagnostics shall not ask cameras that are being closed.
        active, self._active = self._active, None
        if active is not None and not active.close(reason, timeout):
            self._active = active
            return False
        return True

    def unload(self):
        """Free the model and all its memory; only once deactivated."""
        model, self._model = self._model, None
        self._parameters.configured = False
        self._parameters.check_model = lambda settings: None
        self._tally.clear()
        if model is not None:
            model.session.close()
            del model
            gc.unfreeze()
            gc.collect()

    @property
    def about(self) -> str:
        """The loaded model in a few words."""
        session = self._model.session
        return (f"model '{session.model_name}', policy {session.policy}, "
                f'sparsity {session.sparsity:g}, {self._settings.mode} mode')

    def _answer(self, request, on_progress=None, given_up=lambda: '') -> Outcome:
        active = self._active
        if active is None:
            line = f'the node is {self._state_note()}: it answers when it is active'
            self._tally.refused(line)
            return Outcome(None, line)
        return active.answering.answer(request, on_progress, given_up)

    def _query(self, request: Query.Request, response: Query.Response) -> Query.Response:
        # Humble can't tell how many clients a service has.
        count = getattr(self._node, 'count_clients', lambda name: 1)
        gone = Gone(lambda: count(self._query_service.srv_name))
        return self._answer(request, given_up=gone).fill(response)

    def _reset(self, _, response: Trigger.Response) -> Trigger.Response:
        active = self._active
        response.success = active is not None
        response.message = (
            f'the node is {self._state_note()}' if active is None else
            f'{active.reset()} questions cancelled; frames, counts and errors forgotten')
        return response

    def _state_note(self) -> str:
        state = self._state()
        return f'loading ({self._loaded:.0%})' if state == 'configuring' else state

    def _tasks(self) -> dict[str, Callable[[], statuses.Status]]:
        settings, model, active = self._settings, self._model, self._active
        tasks = {'thermal': lambda: thermal.status(settings)}
        if model is None:
            tasks['model'] = lambda: statuses.lifecycle(
                self._state_note(), failure=self._failure())
            return tasks
        session = model.session
        tasks |= {
            'storage': lambda: statuses.storage(
                self._tally.now(), session, settings.direct_io, settings),
            'model': lambda: self._model_status(model, active),
            'memory': lambda: statuses.memory(
                session.memory(), settings.memory_budget_mb, settings)}
        for report in active.cameras.reports() if active is not None else ():
            name = ' '.join(filter(None, ('frames', report.camera)))
            tasks[name] = lambda report=report: statuses.frames(report, True, settings)
        return tasks

    def _model_status(self, model: LoadedModel, active: Active | None) -> statuses.Status:
        if active is None:
            return statuses.lifecycle('inactive', failure=self._failure())
        session, stream = model.session, model.stream
        about = {'model': session.model_name, 'policy': session.policy,
                 'sparsity': session.sparsity, 'mode': self._settings.mode}
        if stream is not None:
            about |= {'stream frames': len(stream.frames), 'stream tokens': stream.tokens,
                      'stream capacity': stream.capacity}
        return statuses.model(self._tally.now(), active.worker.load(), about, self._settings)
