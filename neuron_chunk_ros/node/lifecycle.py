# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The managed node: which transition does what, and where it ends when something goes wrong."""

import threading
from collections.abc import Callable

from rclpy._rclpy_pybind11 import RCLError
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node

from neuron_chunk_ros.errors import NeuronChunkError
from neuron_chunk_ros.node.process_memory import give_back_freed, resident_mib
from neuron_chunk_ros.node.settings import Parameters
from neuron_chunk_ros.node.vlm import Vlm

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
# How long a step may take to end [s]. Launch sends SIGTERM five seconds after SIGINT: be done
# before that.
GRACE = 4.0


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
        self._vlm = Vlm(self, self._declared, self.state, lambda: self.error)

    def state(self) -> str:
        """Return the lifecycle state's label."""
        return self._state_machine.current_state[1]

    def close(self, reason: str) -> bool:
        """Cancel all questions and free everything, in whatever state, before the process ends.

        :return: False where a step or a transition hasn't ended in time.
        """
        if not self._changing.acquire(timeout=GRACE):
            return False
        try:
            if not self._vlm.deactivate(reason, GRACE):
                return False
            self._vlm.unload()
            return True
        finally:
            self._changing.release()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model; FAILURE leaves the node unconfigured."""
        return self._transition('configure', self._vlm.load, self._vlm.unload)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and answer; FAILURE leaves the node inactive."""
        def activate():
            self._vlm.activate()
            self.get_logger().info(f'ready: {self._vlm.about}')
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
        if not self._vlm.deactivate('the node is being deactivated', GRACE):
            raise NeuronChunkError(f'the running step has not ended within {GRACE:g} s: try again')

    def _cleanup(self):
        before, _ = resident_mib()
        self._vlm.unload()
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

