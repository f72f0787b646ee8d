# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a question to the engine and back: checks, frames, conversion, publishing, the tally."""

import math
import time

from neuron_chunk_interfaces.srv import Query
from neuron_chunk_ros.errors import ReadError, RequestError
from neuron_chunk_ros.node.frames import Frames
from neuron_chunk_ros.node.image_conversion import ConversionError, to_rgb
from neuron_chunk_ros.node.messages import answer_message, newest, telemetry_message
from neuron_chunk_ros.node.parameters import Settings
from neuron_chunk_ros.node.tally import Tally
from neuron_chunk_ros.node.worker import QueueFullError, Ticket, Worker

MAX_TOKENS = 4096


class Answering:
    """Answers Query requests with one session, one at a time, in the worker's thread.

    :param publish_step: takes each step's IoTelemetry message, in the worker's thread.
    :param publish_answer: takes each Answer message, in the worker's thread.
    """

    def __init__(self, session, settings: Settings, frames: Frames, worker: Worker, tally: Tally,
                 logger, publish_step, publish_answer):
        self._session = session
        self._settings = settings
        self._frames = frames
        self._worker = worker
        self._tally = tally
        self._logger = logger
        self._publish_step = publish_step
        self._publish_answer = publish_answer
        self._configured: dict[str, object] = {}

    def query(self, request: Query.Request, response: Query.Response) -> Query.Response:
        """Answer a service request; blocks its caller's thread until the worker has the answer."""
        try:
            deadline = _check(request)
            ticket = self._worker.submit(lambda t: self._answer(t, request), deadline)
            ticket.wait()
            if ticket.error is not None:
                raise ticket.error
            if ticket.result is None:
                raise RequestError(ticket.cancelled)
            response.answer = ticket.result
            response.success = True
            if response.answer.finish_reason == 'deadline':
                response.message = f'cut short: the deadline of {deadline:g} s passed'
        except (RequestError, QueueFullError) as error:
            self._tally.refused()
            response.message = _line(error)
        except ReadError as error:
            self._tally.read_failed(_line(error))
            self._logger.error(f'reading from flash failed: {_line(error)}')
            response.message = f'reading from flash failed: {_line(error)}'
        except Exception as error:
            reason = f'{type(error).__name__}: {_line(error)}'
            self._tally.model_failed(reason)
            self._logger.error(f'question failed: {reason}')
            response.message = f'question failed: {reason}'
        return response

    def _answer(self, ticket: Ticket, request: Query.Request):
        queued = ticket.elapsed()
        messages = list(request.images) or [self._newest_frame()]
        images = [self._converted(m, own=not request.images) for m in messages]
        converting = ticket.elapsed() - queued
        headers = [message.header for message in messages]
        session, header = self._session, newest(headers)
        remaining = ticket.remaining()
        if remaining is not None and remaining <= 0:
            raise RequestError(f'the deadline of {ticket.deadline:g} s passed before the question '
                               f'could be looked at (it waited {queued:.2f} s)')
        started = time.monotonic()
        self._follow_settings()
        answer = session.ask(
            request.prompt, images, deadline=remaining,
            max_new_tokens=request.max_new_tokens or self._settings.max_new_tokens,
            on_step=lambda step: self._publish_step(
                telemetry_message(step, header, session.model_name, session.policy)),
            cancelled=lambda: bool(ticket.cancelled))
        if ticket.cancelled and answer.finish_reason == 'cancelled':
            raise RequestError(ticket.cancelled)
        if answer.finish_reason == 'deadline' and not answer.text:
            raise RequestError(f'the deadline of {ticket.deadline:g} s passed before the first '
                               'word of the answer')
        self._tally.answered(answer, time.monotonic() - started)
        message = answer_message(answer, request.prompt, headers, session, queued, converting)
        self._publish_answer(message)
        return message

    def _follow_settings(self):
        """Take over a policy or sparsity that was changed since the last question."""
        wanted = {name: getattr(self._settings, name)
                  for name in ('policy', 'sparsity', 'text_sparsity')}
        if wanted != self._configured:
            self._session.configure(**wanted)
            self._configured = wanted

    def _newest_frame(self):
        message = self._frames.newest()
        if message is None:
            raise RequestError(f'no frame has come on {self._frames.topic} yet: publish images '
                               'there or send some with the question')
        return message

    def _converted(self, message, own: bool):
        """Convert an image; the camera's own (not a request's) count in diagnostics."""
        try:
            image = to_rgb(message)
        except ConversionError as error:
            if own:
                self._frames.converted(_line(error))
            raise
        if own:
            self._frames.converted()
        return image


def _check(request: Query.Request) -> float | None:
    """Return the request's deadline in seconds, None for no limit."""
    if not request.prompt.strip():
        raise RequestError('the prompt is empty: ask something')
    if not math.isfinite(request.deadline) or request.deadline < 0:
        raise RequestError(f'deadline is {request.deadline:g} s: give seconds from the '
                           "request's arrival, or 0 for no limit")
    if request.max_new_tokens > MAX_TOKENS:
        raise RequestError(f'max_new_tokens is {request.max_new_tokens}: at most {MAX_TOKENS}, or '
                           "0 for the node's own limit")
    return request.deadline or None


def _line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
