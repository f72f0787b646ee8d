# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The ~/ask action: an answer that streams in, and can be cancelled."""

from collections.abc import Callable

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node

from neuron_chunk_interfaces.action import Ask
from neuron_chunk_ros.node.outbox import Delivery, Outbox, Turns
from neuron_chunk_ros.node.qos import QUESTIONS
from neuron_chunk_ros.node.question import Outcome
from neuron_chunk_ros.node.waiting import Gone

# Results wait this long for who asked to fetch them [s].
_RESULT_TIMEOUT = 30
# Every client also hears of each goal's states and of its feedback.
_MESSAGES = 3


class _Server(ActionServer):
    """Sends the responses that begin and end a goal again where the client wasn't known yet.

    rclpy sends them itself, so its own methods are extended. Humble's lets go of such a goal.
    """

    def __init__(self, outbox: Outbox, *arguments, **options):
        self._outbox = outbox
        super().__init__(*arguments, **options)

    async def _execute_goal_request(self, request_header_and_message):
        header, request = request_header_and_message
        new = bytes(request.goal_id.uuid) not in self._goal_handles
        with Delivery() as sent:
            await super()._execute_goal_request(request_header_and_message)
        if sent.lost and new:
            self._outbox.send_again(
                self._handle.send_goal_response, header,
                Ask.Impl.SendGoalService.Response(
                    accepted=True, stamp=self._node.get_clock().now().to_msg()))

    def _send_result_response(self, request_header, future):
        with Delivery() as sent:
            super()._send_result_response(request_header, future)
        if sent.lost:
            self._outbox.send_again(
                self._handle.send_result_response, request_header, future.result())


class AskAction:
    """Serves ~/ask. Each goal waits in a thread of the executor, as questions do.

    A goal that can't be queued is accepted and aborted at once: a refused goal could carry no
    reason.
    """

    def __init__(self, node: Node, answer: Callable[..., Outcome], turns: Turns,
                 outbox: Outbox):
        """`answer`: takes (goal, on_progress, given_up), as Answering.answer does."""
        self._node, self._answer, self._turns = node, answer, turns
        # Goals are accepted one by one, for each waits for its turn; they are executed in tasks
        # of their own, which belong to no group.
        self._server = _Server(
            outbox, node, Ask, '~/ask', self._execute,
            callback_group=MutuallyExclusiveCallbackGroup(), goal_callback=self._accept,
            goal_service_qos_profile=QUESTIONS, result_service_qos_profile=QUESTIONS,
            cancel_service_qos_profile=QUESTIONS,
            cancel_callback=lambda _: CancelResponse.ACCEPT, result_timeout=_RESULT_TIMEOUT)
        self._feedback_topic = node.resolve_topic_name('~/ask') + '/_action/feedback'

    def close(self):
        """Let go of the node; once no goal is being answered any more."""
        self._server.destroy()

    def clients(self) -> int:
        """Return how many clients the action has."""
        return self._node.count_subscribers(self._feedback_topic)

    def _accept(self, _: Ask.Goal) -> GoalResponse:
        self._turns.wait(_MESSAGES)
        return GoalResponse.ACCEPT

    def _execute(self, goal: ServerGoalHandle) -> Ask.Result:
        def report(stage: str, progress: float, text: str):
            # Nobody hears of a goal that is over, and rclpy would only complain.
            if goal.is_active:
                goal.publish_feedback(
                    Ask.Feedback(stage=stage, progress=float(progress), text=text))

        report(Ask.Feedback.STAGE_QUEUE, 0.0, '')
        # Every action client listens to the feedback; those of other goals count as well, so only
        # when all are gone can this one's be known to be.
        gone = Gone(self.clients)
        outcome = self._answer(goal.request, report, lambda: (
            'cancelled by who asked' if goal.is_cancel_requested else gone()))
        goal.request.images = []  # rclpy keeps the goal as long as its result
        self._turns.wait(_MESSAGES)
        if goal.is_cancel_requested:
            goal.canceled()
        elif outcome.answer is None or outcome.cancelled:
            goal.abort()
        else:
            goal.succeed()
        return outcome.fill(Ask.Result())

