# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a question to the model and back: frames, conversion, deadlines, the tally."""

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from std_msgs.msg import Header

from neuron_chunk_interfaces.msg import Answer
from neuron_chunk_ros.engine.telemetry import AnswerProgress
from neuron_chunk_ros.errors import ReadError, RequestError
from neuron_chunk_ros.node.annotated import Annotated
from neuron_chunk_ros.node.cameras import Cameras, Frame, Sighting
from neuron_chunk_ros.node.image_conversion import ConversionError, to_rgb
from neuron_chunk_ros.node.loaded_model import LoadedModel
from neuron_chunk_ros.node.messages import answer_message, newest
from neuron_chunk_ros.node.question import Outcome, Question
from neuron_chunk_ros.node.tally import Tally
from neuron_chunk_ros.node.worker import QueueFullError, Ticket, Worker

# How often a waiting asker is looked after [s].
_POLL = 0.02
# How long the worker has to come back with what there is, once the deadline passed or the question
# was cancelled [s]; then the asker hears without it, whatever the worker does.
_GRACE = 0.06


class LateError(RequestError):
    """The deadline passed before there was an answer to give."""


class CancelledError(RequestError):
    """The asker, a reset or the node's end cancelled the question; holds what was written."""

    def __init__(self, reason: str, answer: Answer | None = None):
        super().__init__(reason)
        self.answer = answer


class NothingNewError(RequestError):
    """A standing prompt has been asked about these very frames."""


@dataclass(frozen=True)
class _View:
    """What an answer rests on, in prompt order; `images` is None where the stream has them."""

    headers: list[Header]
    cameras: list[str]
    images: list[np.ndarray] | None
    frames: tuple = ()  # what tells this set of frames from every other


def _known(frames: list[Sighting]) -> tuple:
    return tuple((frame.camera, frame.arrived) for frame in frames)


class Answering:
    """Answers questions one at a time in the worker's thread."""

    def __init__(self, model: LoadedModel, cameras: Cameras, worker: Worker, tally: Tally,
                 logger, publish: Callable[[Answer], None], annotated: Annotated):
        """`publish`: takes each answer to a request, in the worker's thread."""
        self._model, self._cameras, self._worker = model, cameras, worker
        self._settings = model.settings
        self._tally, self._logger = tally, logger
        self._publish, self._annotated = publish, annotated
        self._fault = ''  # of the drive, at the last answer
        self._limits = model.settings.limits()
        self._waiting_bytes, self._lock = 0, threading.Lock()

    def answer(self, request, on_progress: AnswerProgress | None = None,
               given_up: Callable[[], str] = lambda: '') -> Outcome:
        """Answer a Query request or an Ask goal; blocks its caller's thread until it is done.

        :param on_progress: takes (stage, share done, text so far), in the worker's thread.
        :param given_up: asked every few ms; a reason it returns cancels the question.
        """
        arrived = time.monotonic()
        try:
            question = Question.of(request, self._limits)
            self._model.session.check_sizes([(m.height, m.width) for m in question.images])
            with self._room_for(question):
                ticket = self._worker.submit(
                    lambda t: self._work(t, question, on_progress), question.deadline, arrived)
                self._attend(ticket, given_up)
            answer = ticket.take()
            if answer is None:
                raise CancelledError(ticket.cancelled)
            late = answer.finish_reason == Answer.FINISH_DEADLINE
            return Outcome(
                answer, f'cut short: the deadline of {question.deadline:g} s passed' if late
                else '')
        except CancelledError as error:
            return Outcome(error.answer, str(error), cancelled=True)
        except Exception as error:
            return Outcome(None, self.note(error))

    @contextlib.contextmanager
    def _room_for(self, question: Question) -> Iterator[None]:
        """Count the question's images among those that wait. Raises QueueFullError."""
        nbytes, most = question.nbytes, self._settings.max_waiting_mb << 20
        with self._lock:
            if self._waiting_bytes + nbytes > most:
                raise QueueFullError(
                    f'the images of waiting questions take {_mib(self._waiting_bytes)} MiB, with '
                    f"this one's {_mib(nbytes)} more than {most >> 20} (max_waiting_mb)")
            self._waiting_bytes += nbytes
        try:
            yield
        finally:
            with self._lock:
                self._waiting_bytes -= nbytes

    def note(self, error: Exception) -> str:
        """Enter a failure in the tally; return the line the asker gets."""
        line = _line(error)
        if isinstance(error, LateError):
            self._tally.missed_deadline(line)
        elif isinstance(error, (RequestError, QueueFullError)):
            self._tally.refused(line, overload=isinstance(error, QueueFullError))
        elif isinstance(error, ReadError):
            line = f'reading from flash failed: {line}'
            self._tally.read_failed(_line(error))
            self._logger.error(line)
        else:
            reason = f'{type(error).__name__}: {line}'
            line = f'question failed: {reason}'
            self._tally.model_failed(reason)
            self._logger.error(line)
        return line

    def ask(self, question: Question, elapsed: Callable[[], float] | None = None,
            on_progress: AnswerProgress | None = None,
            cancelled: Callable[[], str] = lambda: '', asked_about: tuple | None = None
            ) -> tuple[Answer, tuple]:
        """Answer now, in the worker's thread, and publish nothing.

        :param elapsed: seconds since the question arrived; None: it arrives now.
        :param asked_about: frames, as returned before, that are not to be looked at again.
        :return: the answer, and what frames it is about.
        :raises RequestError, LateError, CancelledError, ReadError: see `answer`.
        :raises NothingNewError: where the frames in view are those of `asked_about`.
        """
        began = time.monotonic()
        elapsed = elapsed or (lambda: time.monotonic() - began)
        queued = elapsed()
        def check() -> None:
            if reason := cancelled():
                raise CancelledError(reason)
            if question.deadline is not None and elapsed() > question.deadline:
                raise LateError(
                    f'the deadline of {question.deadline:g} s passed before the question could be '
                    f'looked at (it waited {queued:.2f} s)')

        view = self._look(question, asked_about, check)
        converting = elapsed() - queued
        remaining = None if question.deadline is None else question.deadline - elapsed()
        check()
        options = {
            'max_new_tokens': question.max_new_tokens or self._settings.max_new_tokens,
            'deadline': remaining, 'on_progress': on_progress,
            'on_step': self._model.step_publisher(newest(view.headers)),
            'cancelled': lambda: bool(cancelled())}
        if view.images is None:
            answer = self._model.stream.ask(question.prompt, **options)
        else:
            answer = self._model.session.ask(
                question.prompt, view.images, names=self._model.spoken(view.cameras), **options)
        message = answer_message(answer, question.prompt, view.headers, self._model.session,
                                 queued, converting)
        message.cameras, message.standing = view.cameras, question.standing
        if answer.finish_reason == Answer.FINISH_CANCELLED:
            raise CancelledError(cancelled(), message)
        if answer.finish_reason == Answer.FINISH_DEADLINE:
            if question.refuse_late:
                raise LateError(f'the deadline of {question.deadline:g} s passed before the '
                                'answer was whole')
            if not answer.text:
                raise LateError(f'the deadline of {question.deadline:g} s passed before the first '
                                'word of the answer')
            self._tally.missed_deadline('answered early')
        self._tally.answered(answer, elapsed())
        self._tell_of_faults(answer.io.fault)
        self._draw(message, view)
        return message, view.frames

    def _tell_of_faults(self, fault: str):
        """Log when the drive begins to fail, and when it is back."""
        if fault and not self._fault:
            self._logger.error(f'reading from flash failed: {fault}; answers go on with what is '
                               'held in memory, coarse')
        elif self._fault and not fault:
            self._logger.info('reading from flash works again: answers are no longer coarse')
        self._fault = fault

    def _work(self, ticket: Ticket, question: Question,
              on_progress: AnswerProgress | None) -> Answer:
        self._model.follow_settings()
        answer, _ = self.ask(question, ticket.elapsed, on_progress, lambda: ticket.cancelled)
        self._publish(answer)
        return answer

    def _attend(self, ticket: Ticket, given_up: Callable[[], str]):
        """Wait for the answer, unless nobody wants it any more or its time is up."""
        while not ticket.wait(_POLL):
            reason, remaining = given_up(), ticket.remaining()
            if reason and not self._worker.withdraw(ticket, reason):
                ticket.cancel(reason)
            if ticket.cancelled and time.monotonic() > ticket.cancelled_at + _GRACE:
                raise CancelledError(ticket.cancelled)
            if remaining is None or remaining > 0:
                continue
            if self._worker.withdraw(ticket, 'late'):
                raise LateError(f'the deadline of {ticket.deadline:g} s passed before the '
                                'question could be looked at: others were being answered')
            if remaining < -_GRACE:
                ticket.cancel('late')
                waited = self._model.session.read_under_way()
                raise LateError(f'the deadline of {ticket.deadline:g} s passed before the first '
                                'word of the answer' + (f': a read from flash has been under way '
                                                        f'for {waited:.1f} s' if waited else ''))

    def _look(self, question: Question, asked_about: tuple | None,
              check: Callable[[], None]) -> _View:
        """`check`: called between two images; may raise."""
        if question.images:
            images = []
            for message in question.images:
                check()
                images.append(to_rgb(message, self._limits))
            return _View([m.header for m in question.images], [''] * len(images), images)
        stream = self._model.stream
        if stream is None:
            frames = self._cameras.newest(question.cameras)
            _refuse_again(frames, asked_about)
            return _View([f.header for f in frames], [f.camera for f in frames],
                         [self.convert(f) for f in frames], _known(frames))
        if question.cameras:
            raise RequestError('in stream mode the cameras are seen together: leave cameras empty')
        frames = [kept.tag for kept in stream.frames]
        if not frames:
            self._cameras.newest()  # says which camera is missing, if one is
            raise RequestError('no frame has gone through the model yet: ask again in a moment')
        self._cameras.check_age(list({f.camera: f for f in frames}.values()))
        _refuse_again(frames, asked_about)
        return _View([f.header for f in frames], [f.camera for f in frames], None,
                     _known(frames))

    def convert(self, frame: Frame):
        """Return a camera's frame as uint8 [height, width, 3]. Raises ConversionError."""
        camera = self._cameras[frame.camera]
        try:
            image = to_rgb(frame.message, self._limits)
        except ConversionError as error:
            camera.looked_at(_line(error))
            raise
        camera.looked_at()
        camera.picture = frame.sighting(), image
        return image

    def _draw(self, message: Answer, view: _View):
        if not self._annotated.wanted():
            return
        pictures = view.images
        if pictures is None:
            # The stream keeps no pixels: the newest of each camera stand for it.
            shown = [self._cameras[name].picture for name in dict.fromkeys(view.cameras)]
            message, pictures = copy.copy(message), [image for _, image in shown]
            message.images = [frame.header for frame, _ in shown]
            message.cameras = [frame.camera for frame, _ in shown]
        self._annotated.publish(message, pictures)


def _refuse_again(frames: list[Sighting], asked_about: tuple | None):
    if _known(frames) == asked_about:
        raise NothingNewError('asked about these frames already')


def _mib(nbytes: int) -> str:
    return f'{nbytes / (1 << 20):.1f}'


def _line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
