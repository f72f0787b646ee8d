# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Stream mode: frames go through the decoder as they come, the newest of each camera at a time."""

import time
from collections import defaultdict
from collections.abc import Callable

from neuron_chunk_ros.errors import RequestError, Stopped
from neuron_chunk_ros.node.answering import Answering
from neuron_chunk_ros.node.cameras import Cameras, Frame
from neuron_chunk_ros.node.loaded_model import LoadedModel
from neuron_chunk_ros.node.once import Once
from neuron_chunk_ros.node.tally import Tally
from neuron_chunk_ros.node.waiting import Pace
from neuron_chunk_ros.node.worker import Worker


class FrameFeed:
    """Offers frames to the worker and appends them there.

    A frame that comes while an older one of its camera still waits takes that one's place.
    """

    def __init__(self, model: LoadedModel, cameras: Cameras, worker: Worker, tally: Tally,
                 answering: Answering, logger, on_appended: Callable[[], None]):
        """`on_appended`: called in the worker's thread after each frame that went in."""
        self._model, self._cameras, self._worker = model, cameras, worker
        self._tally, self._answering, self._logger = tally, answering, logger
        self._on_appended = on_appended
        self._settings = model.settings
        self._together = bool(model.settings.sync_slop)
        self._last: dict[str, float] = {}  # when each camera's came that went in last
        self._paces: defaultdict[tuple[str, ...], Pace] = defaultdict(Pace)
        self._told = Once()
        self.ending = ''

    def on_frame(self, camera: str):
        """Note that a camera has a new frame; returns at once."""
        wanted = () if self._together else (camera,)
        if self._paces[wanted].due(self._settings.frame_rate):
            self._offer(wanted)

    def clear(self):
        """Forget every frame; in the worker's thread, between two steps."""
        self._model.stream.clear()
        self._last.clear()

    def _offer(self, wanted: tuple[str, ...]):
        self._worker.offer(('append', wanted), lambda: self._append(wanted))

    def _append(self, wanted: tuple[str, ...]):
        """Append the newest frame of a camera, or of all together (); keeps the worker alive."""
        try:
            self._model.follow_settings()
            frames = [f for f in self._cameras.newest(wanted)
                      if self._last.get(f.camera) != f.arrived]
            for frame in frames:
                self._append_frame(frame)
            if frames:
                self._told.over(wanted)
        except Stopped:
            if not self.ending:  # a question came; the newest frame goes in after it
                self._offer(wanted)
            return
        except RequestError as error:
            # A bad frame, or one that waits for its fellows: diagnostics tell, the next may fit.
            self._tell(wanted, str(error))
            return
        except Exception as error:
            self._tell(wanted, self._answering.note(error))
            return
        if frames:
            self._on_appended()

    def _append_frame(self, frame: Frame):
        began = time.monotonic()
        self._last[frame.camera] = frame.arrived
        image = self._answering.convert(frame)
        try:
            step = self._model.stream.append(
                image, camera=frame.camera, name=self._model.spoken([frame.camera])[0],
                tag=frame.sighting(), on_step=self._model.step_publisher(frame.header),
                cancelled=lambda: bool(self.ending) or self._worker.preempted())
        except Stopped:
            del self._last[frame.camera]  # not taken after all
            raise
        except RequestError as error:
            self._cameras[frame.camera].refused(str(error))
            raise
        self._tally.appended(step, time.monotonic() - began)

    def _tell(self, wanted: tuple[str, ...], line: str):
        """Log a failure once, not at each frame; of each camera apart."""
        if self._told.news(wanted, line):
            of = f' of {wanted[0]}' if wanted and wanted[0] else ''
            self._logger.warning(f'frame{of} not taken: {line}')
