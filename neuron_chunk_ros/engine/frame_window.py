# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A stream of camera frames kept as keys and values, so that a question costs its own words only.

Each frame goes through vision tower and decoder once, when it arrives (the paper's *frame
appending*). The text ahead of all frames, the attention sinks, is always kept; of the frames, the
last few of each camera.

Positions stay gapless. Where a frame leaves, everything ahead of the hole moves forward by the
hole's length: its keys are rotated anew. Usually that is the sinks alone, a few tokens. What
moves more than once keeps its keys as first computed and is always rotated from these, so that
rounding never adds up. Before positions grow too large all are moved down at once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from neuron_chunk_ros.attention.segments import Segment
from neuron_chunk_ros.engine.inputs import Inputs
from neuron_chunk_ros.engine.kv_cache import KvMemory
from neuron_chunk_ros.engine.positions import KeyRotation
from neuron_chunk_ros.engine.runner import Runner
from neuron_chunk_ros.engine.telemetry import Answer, AnswerProgress, StepTelemetry
from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.families import PromptPart

_RESERVE = 512           # tokens kept free for a question and its answer ...
_RESERVED_SHARE = 4      # ... but no more than one in so many
_POSITIONS = 4           # times the context: positions move down before they exceed this


@dataclass(frozen=True)
class StreamFrame:
    """A frame in the stream."""

    camera: str
    name: str            # told to the model ahead of it
    tag: object          # whatever the caller gave along
    tokens: int          # it takes, the text around it included


@dataclass(eq=False)
class _Segment:
    """Neighbouring tokens that come and go together: the sinks, or a frame."""

    tokens: int
    start: int           # its first position
    span: int            # positions it takes
    ids: torch.Tensor    # int64 [1, tokens]
    frame: StreamFrame | None = None
    parts: tuple[Segment, ...] = ()  # the same tokens for attention
    number: int = -1     # as which the template counts the frame
    trail: str = ''      # template text that opens what follows it
    # Where the keys were first computed, and they themselves; None where they still are.
    origin: tuple[int, list[torch.Tensor]] | None = None

    @property
    def end(self) -> int:
        """The first position behind it."""
        return self.start + self.span


class FrameWindow:
    """The last frames of each camera, ready to be asked about; made by `Session.stream`.

    An append that doesn't succeed leaves everything as it was, and so does each question; where
    memory runs out, or an interrupt comes, while keys are being moved, all frames are forgotten
    instead, for what lies where is not known then. Not for use from several threads at once, but
    `window`, `capacity`, `frames` and `tokens` may be read from any, also once the stream has
    ended.
    """

    def __init__(self, window: int, cameras: int, memory: KvMemory, runner: Runner,
                 inputs: Inputs, rotation: KeyRotation):
        """Use `Session.stream`."""
        if window < 1:
            raise ValueError(f'window is {window}: it must be at least 1 frame')
        if cameras < 1:
            raise ValueError(f'cameras is {cameras}: there must be at least 1')
        self.window, self.cameras = window, cameras
        # Tokens that may be kept; what the context holds beyond is for questions.
        self.capacity = memory.context - min(_RESERVE, memory.context // _RESERVED_SHARE)
        self._memory, self._runner, self._inputs = memory, runner, inputs
        self._rotation = rotation
        self._cache = memory.cache()
        self._segments: list[_Segment] = []
        inputs.prompts.check_pieces()
        self._prefix_tokens = inputs.prefix().tokens

    @property
    def frames(self) -> tuple[StreamFrame, ...]:
        """The frames that are kept, in prompt order."""
        return tuple(s.frame for s in tuple(self._segments) if s.frame is not None)

    @property
    def tokens(self) -> int:
        """Tokens that are kept: the frames' and those of the text ahead of them."""
        return sum(segment.tokens for segment in tuple(self._segments))

    @torch.inference_mode()
    def append(self, image: np.ndarray, *, camera: str = '', name: str = '', tag: object = None,
               on_step: Callable[[StepTelemetry], None] | None = None,
               cancelled: Callable[[], bool] | None = None,
               deadline: float | None = None) -> StepTelemetry:
        """Take in a frame; drop the camera's oldest, and others' where memory asks for it.

        :param image: uint8 [height, width, 3] RGB.
        :param camera: whose window it counts for.
        :param name: told to the model ahead of the frame, where it has the words; '' for none.
        :param tag: handed back with the frame in `frames`.
        :param on_step: called with each step's bill (the first frame has two).
        :param cancelled: asked every few milliseconds; true ends the work.
        :param deadline: seconds from now.
        :return: the frame's bill, step 'append'.
        :raises Stopped: by deadline or cancelled.
        :raises ValueError: from more cameras than there are to be.
        :raises RequestError: for an image that can't be used, or that never fits.
        :raises ReadError: when reading from flash fails.
        """
        until = None if deadline is None else time.monotonic() + deadline
        self._check_alive()
        encoded = self._inputs.image(image)
        leaving, number, piece = self._make_room(encoded, camera, name)
        with self._runner.work(until, cancelled, on_step):
            with self._moving():
                undo = self._remove(leaving)
            kept = list(self._segments)
            try:
                if not self._segments and self._prefix_tokens:
                    self._run('prefill', self._inputs.prefix())
                bill = self._run('append', piece, frame=StreamFrame(camera, name, tag,
                                                                    piece.tokens),
                                 number=number, trail=piece.trail)
            except BaseException:
                self._segments = kept
                with self._moving():
                    undo()
                    self._hold()
                raise
        if self._end > _POSITIONS * self._memory.context:
            with self._moving():
                self._move_down()
        return bill

    @torch.inference_mode()
    def ask(self, prompt: str, *, max_new_tokens: int = 32, deadline: float | None = None,
            on_step: Callable[[StepTelemetry], None] | None = None,
            on_progress: AnswerProgress | None = None,
            cancelled: Callable[[], bool] | None = None) -> Answer:
        """Answer a question about the frames that are kept; they stay as they are.

        Parameters, answer and errors as of Session.ask.
        """
        self._check_alive()
        trail = self._segments[-1].trail if self._segments else ''

        def prepare() -> PromptPart:
            if not self._segments:
                return self._inputs.whole(prompt, [], None)
            return self._inputs.suffix(prompt, trail)

        return self._runner.answer(
            prepare, self._cache, self._end, max_new_tokens=max_new_tokens, deadline=deadline,
            on_step=on_step, on_progress=on_progress, cancelled=cancelled,
            ahead=[segment.ids for segment in self._segments])

    def clear(self) -> None:
        """Forget all frames."""
        self._check_alive()
        self._segments = []
        self._cache.truncate(0)

    def close(self) -> None:
        """End the stream; it can't be used any more."""
        self._segments = []
        self._memory = self._cache = self._runner = self._inputs = self._rotation = None

    @property
    def _end(self) -> int:
        """The first position behind all tokens."""
        return self._segments[-1].end if self._segments else 0

    def _check_alive(self) -> None:
        if self._memory is None:
            raise RuntimeError('this stream has ended: its session was closed, or asked for '
                               'another stream')

    def _run(self, step: str, piece: PromptPart, **what) -> StepTelemetry:
        start = self._end
        end, bill, _ = self._runner.step(step, piece, self._cache, start)
        self._segments.append(_Segment(
            piece.tokens, start, end - start, piece.ids,
            parts=piece.segments or (Segment(piece.tokens),), **what))
        return bill

    @contextlib.contextmanager
    def _moving(self) -> Iterator[None]:
        """Forget all frames where moving them is broken off."""
        try:
            yield
        except BaseException:
            self.clear()
            raise

    def _hold(self) -> None:
        """Tell the cache what is kept."""
        self._cache.hold(part for segment in self._segments for part in segment.parts)

    def _make_room(self, encoded, camera: str, name: str):
        """Return the segments that have to leave, the new frame's number, and its piece."""
        frames = [s for s in self._segments if s.frame is not None]
        own = [s for s in frames if s.frame.camera == camera]
        if not own and len({s.frame.camera for s in frames}) >= self.cameras:
            raise ValueError(f"a frame of '{camera}', but the stream is for {self.cameras} "
                             "camera(s): give Session.stream their number")
        leaving = own[:max(0, len(own) + 1 - self.window)]
        kept = [s for s in frames if s not in leaving]
        while True:
            taken = {s.number for s in kept}
            number = next(n for n in range(len(taken) + 1) if n not in taken)
            piece = self._inputs.frame(encoded, name, number, kept[-1].trail if kept else '')
            needed = self._prefix_tokens + sum(s.tokens for s in kept) + piece.tokens
            if needed <= self.capacity:
                return leaving, number, piece
            if not kept:
                raise RequestError(
                    f'a frame takes {piece.tokens} tokens and the text ahead of it '
                    f'{self._prefix_tokens}, but of a context of {self._memory.context} tokens '
                    f'frames may take {self.capacity}: a larger max_context, or smaller images')
            leaving = [*leaving, kept.pop(0)]

    def _remove(self, leaving: list[_Segment]) -> Callable[[], None]:
        """Close the holes that segments leave; return what puts them back."""
        before, segments = self._segments, [s for s in self._segments if s not in leaving]
        if not leaving:
            return lambda: None
        old = _places(before)
        new = _places(segments)
        removed = [(old[id(s)], self._memory.take(old[id(s)], s.tokens)) for s in leaving]
        moves = [(old[id(s)], new[id(s)], s.tokens) for s in segments]
        starts = [(s, s.start) for s in before]
        self._memory.move(moves)
        self._segments = segments
        self._hold()
        end = self._end
        for segment in reversed(segments):
            self._stand(segment, end - segment.span, new[id(segment)])
            end = segment.start

        def undo() -> None:
            self._memory.move([(to, start, tokens) for start, to, tokens in reversed(moves)])
            for place, taken in removed:
                self._memory.put(place, taken)
            self._segments = before
            for segment, start in starts:
                self._stand(segment, start, old[id(segment)])

        return undo

    def _stand(self, segment: _Segment, start: int, place: int) -> None:
        """Turn a segment's keys so that it begins at position `start`.

        :param place: where its tokens lie.
        """
        if segment.start == start:
            return
        here = slice(place, place + segment.tokens)
        if segment.origin is None:
            segment.origin = (segment.start,
                              [keys[:, :, here].clone() for keys in self._memory.keys])
        first, originals = segment.origin
        for keys, original in zip(self._memory.keys, originals, strict=True):
            keys[:, :, here] = self._rotation(original, start - first)
        segment.start = start
        if start == first:
            segment.origin = None  # as first computed again

    def _move_down(self) -> None:
        """Let positions begin at 0 again.

        A frame that never moved before does so without keeping its keys: until it moves once
        more, being ahead of a hole, its rounding is that of one rotation.
        """
        down = self._segments[0].start
        place = 0
        for segment in self._segments:
            moved_before = segment.origin is not None
            self._stand(segment, segment.start - down, place)
            if not moved_before:
                segment.origin = None
            place += segment.tokens


def _places(segments: list[_Segment]) -> dict[int, int]:
    """Return where each segment's tokens lie, by its id()."""
    places, at = {}, 0
    for segment in segments:
        places[id(segment)] = at
        at += segment.tokens
    return places
