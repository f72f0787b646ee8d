# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The `vlm` node: a managed node, and what it shows to others in every state.

Topics, services, the action and diagnostics stay in every state, so that who asks too early is
told so. Behind them a model is loaded and frames are seen as the transitions say.
"""

import gc
import threading
import time
from collections.abc import Callable

from rclpy._rclpy_pybind11 import RCLError
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from std_srvs.srv import Trigger

from neuron_chunk_interfaces.msg import Answer, IoTelemetry
from neuron_chunk_interfaces.srv import Query
from neuron_chunk_ros.errors import NeuronChunkError
from neuron_chunk_ros.node.active import Active
from neuron_chunk_ros.node.annotated import Annotated
from neuron_chunk_ros.node.ask_action import AskAction
from neuron_chunk_ros.node.diagnostics import Diagnostics, statuses, thermal
from neuron_chunk_ros.node.graph import namesakes, unknown_parameters
from neuron_chunk_ros.node.loaded_model import LoadedModel, open_session
from neuron_chunk_ros.node.outbox import Outbox, Turns
from neuron_chunk_ros.node.process_memory import give_back_freed, resident_mib
from neuron_chunk_ros.node.qos import QUESTIONS, RESULTS
from neuron_chunk_ros.node.question import Outcome
from neuron_chunk_ros.node.request_memory import request_bytes
from neuron_chunk_ros.node.settings import Parameters
from neuron_chunk_ros.node.tally import Tally
from neuron_chunk_ros.node.waiting import Gone

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
# How long a step may take to end [s]. Launch sends SIGTERM five seconds after SIGINT: be done
# before that.
GRACE = 4.0
# How often a load that takes long is told of [s].
_PROGRESS = 2.0


class VlmNode(LifecycleNodeMixin, Node):
    """The `vlm` node. A transition that fails leaves the node in the state it came from.

    configure loads the model, activate subscribes and answers, deactivate stops and keeps the
    model, cleanup frees it.
    """

    def __init__(self):
        Node.__init__(self, 'vlm')
        # A group of their own: the state can be asked for while the model loads.
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        # rclpy lets a transition that isn't possible now take the executor down.
        self._service_change_state.callback = self._refusing(self._service_change_state.callback)
        self._declared = Parameters(self)
        self.settings = self._declared.settings
        self.error = ''  # why the last transition failed
        self.starting = False  # a transition that fails now ends the process
        # Services run side by side: the state machine alone would let a shutdown overtake a load.
        self._changing = threading.Lock()
        self._tally = Tally()
        self._model: LoadedModel | None = None
        self._active: Active | None = None
        self._loaded = 0.0
        self._ending = ''  # why nothing is answered any more
        self._unknown: dict[str, str] = {}  # parameters that were given and mean nothing
        self._alone = True  # no other node has its name
        self._answers = self.create_publisher(Answer, '~/answer', RESULTS)
        self._telemetry = self.create_publisher(IoTelemetry, '~/telemetry', RESULTS)
        self._annotated = Annotated(self)
        # Each waiting question holds one executor thread: they need a group that lets them.
        self._query_service = self.create_service(
            Query, '~/query', self._query, qos_profile=QUESTIONS,
            callback_group=ReentrantCallbackGroup())
        # Humble can't tell how many clients a service has.
        count = getattr(self, 'count_clients', lambda name: 1)
        self._askers = lambda: count(self._query_service.srv_name)
        turns = Turns(lambda: max(self._askers(), self._ask.clients()))
        self._outbox = Outbox(self._query_service, turns)
        self.create_service(Trigger, '~/reset', self._reset,
                            callback_group=MutuallyExclusiveCallbackGroup())
        self._ask = AskAction(self, self._answer, turns, self._outbox)
        self._look_for_unknown(subscribed=False)
        Diagnostics(self, self.settings.diagnostics_period, self._tasks)

    @staticmethod
    def executor_threads(queue_limit: int) -> int:
        """Return how many threads the executor needs so that questions never starve the rest.

        One for the question being answered and for each that waits; one each for a question to
        be refused, goals that come, goals that are refused, frames, diagnostics and their
        heartbeat, reset, a transition and parameters.
        """
        return 1 + queue_limit + 9

    def state(self) -> str:
        """Return the lifecycle state's label."""
        return self._state_machine.current_state[1]

    def destroy_node(self) -> bool:
        """Send the responses that are still to be sent, and leave the graph."""
        self.send_responses()
        # Both hold on to the node, which others would believe alive for as long.
        self._ask.close()
        self._state_machine.destroy_when_not_in_use()
        return Node.destroy_node(self)

    def send_responses(self):
        """Wait until those that are there are sent, for a while."""
        self._outbox.close(GRACE)

    def close(self, reason: str) -> bool:
        """Cancel all questions and free everything, in whatever state, before the process ends.

        :return: False where a step or a transition hasn't ended in time.
        """
        if not self._changing.acquire(timeout=GRACE):
            return False
        self._ending = reason
        try:
            if not self._stop(reason, GRACE):
                return False
            self._unload()
            return True
        finally:
            self._changing.release()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model; FAILURE leaves the node unconfigured."""
        return self._transition('configure', self._load, self._unload)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and answer; FAILURE leaves the node inactive."""
        def activate():
            self._begin()
            self.get_logger().info(f'ready: {self._about}')
        return self._transition('activate', activate, self._deactivate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and keep the model."""
        return self._transition('deactivate', self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything."""
        return self._transition('cleanup', self._cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything, from any state."""
        def shutdown():
            self._deactivate()
            self._cleanup()
        return self._transition('shutdown', shutdown)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything; the node is unconfigured then."""
        return self.on_shutdown(state)

    def _transition(self, name: str, work: Callable[[], None],
                    undo: Callable[[], None] = lambda: None) -> TransitionCallbackReturn:
        """Do the work; where it fails, log why, undo it and return FAILURE."""
        # An exception would be swallowed by rclpy, and the state would tell nothing of it.
        with self._changing:
            try:
                self.error = ''
                work()
                return SUCCESS
            except NeuronChunkError as error:
                self.error = ' '.join(str(error).split())
            except Exception as error:
                self.error = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if self.starting:
                self.get_logger().fatal(self.error)
            else:
                self.get_logger().error(f'{name} failed: {self.error}')
            try:
                undo()
            except Exception as error:
                self.get_logger().error(f'{name} could not be undone: {error}')
            return FAILURE

    def _deactivate(self):
        if not self._stop('the node is being deactivated', GRACE):
            raise NeuronChunkError(f'the running step has not ended within {GRACE:g} s: try again')

    def _cleanup(self):
        before, _ = resident_mib()
        self._unload()
        give_back_freed()
        after, _ = resident_mib()
        self.get_logger().info(f'freed {before - after:.0f} MiB')

    def _refusing(self, change_state):
        def guarded(request, response):
            try:
                return change_state(request, response)
            except RCLError:
                asked = request.transition.label or request.transition.id
                self.get_logger().warning(
                    f"transition '{asked}' is not possible: the node is {self.state()}")
                response.success = False
                return response
        return guarded

    def _load(self):
        """Load the model. Raises NeuronChunkError."""
        logger, settings = self.get_logger(), self.settings
        self._declared.configured = True  # what is being loaded stays what the parameters say
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
        self._declared.check_model = self._model.check
        self._model.check(settings.now())  # live ones may have changed since it was planned
        # All of torch is never garbage, but looking for some there stops every thread for half a
        # second, again and again.
        gc.collect()
        gc.freeze()

    def _begin(self):
        """Subscribe to the cameras and begin to answer."""
        self._active = Active(self, self._model, self._declared, self._tally,
                              self._answers.publish, self._annotated)
        self._look_for_unknown(subscribed=True)

    def _look_for_unknown(self, subscribed: bool):
        """Warn of parameters that were given at start and mean nothing, of each once."""
        for name, line in unknown_parameters(self, self._declared.names, subscribed).items():
            if name not in self._unknown:
                self.get_logger().warning(line)
                self._unknown[name] = line

    def _stop(self, reason: str, timeout: float) -> bool:
        """Stop seeing and answering; the model stays.

        :return: False where a step hasn't ended within the timeout [s].
        """
        # Out of sight first: diagnostics shall not ask cameras that are being closed.
        active, self._active = self._active, None
        if active is not None and not active.close(reason, timeout):
            self._active = active
            return False
        return True

    def _unload(self):
        """Free the model and all its memory; only once deactivated."""
        model, self._model = self._model, None
        self._declared.configured = False
        self._declared.check_model = lambda settings: None
        self._tally.clear()
        if model is not None:
            model.session.close()
            del model
            gc.unfreeze()
            gc.collect()

    @property
    def _about(self) -> str:
        """The loaded model in a few words."""
        session = self._model.session
        return (f"model '{session.model_name}', policy {session.policy}, "
                f'sparsity {session.sparsity:g}, {self.settings.mode} mode')

    def _answer(self, request, on_progress=None, given_up=lambda: '') -> Outcome:
        active = self._active
        if active is None:
            line = (self._ending
                    or f'the node is {self._state_note()}: it answers when it is active')
            self._tally.refused(line)
            return Outcome(None, line)
        return active.answering.answer(request, on_progress, given_up)

    def _query(self, request: Query.Request, response: Query.Response) -> Query.Response:
        return self._answer(request, given_up=Gone(self._askers)).fill(response)

    def _reset(self, _, response: Trigger.Response) -> Trigger.Response:
        active = self._active
        response.success = active is not None
        response.message = (
            f'the node is {self._state_note()}' if active is None else
            f'{active.reset()} questions cancelled; frames, counts and errors forgotten')
        return response

    def _state_note(self) -> str:
        state = self.state()
        return f'loading ({self._loaded:.0%})' if state == 'configuring' else state

    def _tasks(self) -> dict[str, Callable[[], statuses.Status]]:
        settings, model, active = self.settings, self._model, self._active
        tasks = {'thermal': lambda: thermal.status(settings), 'setup': self._setup_status}
        if model is None:
            tasks['model'] = lambda: statuses.lifecycle(
                self._state_note(), failure=self.error)
            return tasks
        session = model.session
        tasks |= {
            'storage': lambda: statuses.storage(
                self._tally.now(), session, settings.direct_io, settings),
            'model': lambda: self._model_status(model, active),
            'memory': lambda: statuses.memory(
                session.memory(), settings.memory_budget_mb, settings,
                request_bytes(settings, session))}
        for report in active.cameras.reports() if active is not None else ():
            name = ' '.join(filter(None, ('frames', report.camera)))
            tasks[name] = lambda report=report: statuses.frames(report, True, settings)
        return tasks

    def _setup_status(self) -> statuses.Status:
        name, others = self.get_fully_qualified_name(), namesakes(self)
        if others and self._alone:
            self.get_logger().warning(statuses.namesake_line(name))
        self._alone = not others
        return statuses.setup(self._unknown.values(), others, name)

    def _model_status(self, model: LoadedModel, active: Active | None) -> statuses.Status:
        if active is None:
            return statuses.lifecycle('inactive', failure=self.error)
        session, stream = model.session, model.stream
        about = {'model': session.model_name, 'policy': session.policy,
                 'sparsity': session.sparsity, 'attention': session.attention,
                 'head classes': 'yes' if session.has_head_classes else 'none',
                 'mode': self.settings.mode}
        if stream is not None:
            about |= {'stream frames': len(stream.frames), 'stream tokens': stream.tokens,
                      'stream capacity': stream.capacity}
        return statuses.model(self._tally.now(), active.worker.load(), about, self.settings)
