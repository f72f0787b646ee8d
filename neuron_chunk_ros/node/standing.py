# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Standing prompts (parameter `watch`): asked whenever there is something new to see."""

from collections.abc import Callable

from neuron_chunk_interfaces.msg import Answer
from neuron_chunk_ros.node.answering import Answering, CancelledError, NothingNewError
from neuron_chunk_ros.node.loaded_model import LoadedModel
from neuron_chunk_ros.node.once import Once
from neuron_chunk_ros.node.question import Question
from neuron_chunk_ros.node.waiting import Pace
from neuron_chunk_ros.node.worker import Worker


class Standing:
    """Offers the standing prompts to the worker and asks them there."""

    def __init__(self, model: LoadedModel, worker: Worker, answering: Answering, logger,
                 publish: Callable[[Answer], None]):
        """`publish`: takes each answer, in the worker's thread."""
        self._model, self._worker, self._answering = model, worker, answering
        self._settings, self._logger, self._publish = model.settings, logger, publish
        self._pace = Pace()
        self._texts: dict[str, str] = {}
        self._asked_about: dict[str, tuple] = {}
        self._told = Once()
        self.ending = ''

    def on_view(self):
        """Note that there is something new to see; returns at once."""
        if self._settings.watch and self._pace.due(self._settings.watch_rate):
            for prompt in self._settings.watch:
                self._offer(prompt)

    def clear(self):
        """Forget the last answers."""
        self._texts.clear()

    def _offer(self, prompt: str):
        self._worker.offer(('watch', prompt), lambda: self._ask(prompt))

    def _cancelled(self) -> str:
        return self.ending or ('a question came' if self._worker.preempted() else '')

    def _ask(self, prompt: str):
        """Ask one prompt; keeps the worker alive."""
        settings = self._settings
        if prompt not in settings.watch:
            return  # dropped while it waited
        try:
            self._model.follow_settings()
            answer, self._asked_about[prompt] = self._answering.ask(
                Question(prompt, standing=True), cancelled=self._cancelled,
                asked_about=self._asked_about.get(prompt))
        except NothingNewError:
            return
        except CancelledError:
            if not self.ending:
                self._offer(prompt)
            return
        except Exception as error:
            line = self._answering.note(error)
            if self._told.news(prompt, line):
                self._logger.warning(f"standing prompt '{prompt}' not answered: {line}")
            return
        self._told.over(prompt)
        news = self._texts.get(prompt) != answer.text
        self._texts[prompt] = answer.text
        if news or not settings.watch_on_change:
            self._publish(answer)
