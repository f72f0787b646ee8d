# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the tokens in a KV cache are: text, or an image with the text that frames it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens that belong together."""

    tokens: int
    image: bool = False
    # Of an image's segment, which of its tokens are text, ascending: its name, its delimiters.
    text: tuple[int, ...] = ()


class SegmentTable:
    """A cache's segments, in the order of its tokens."""

    def __init__(self, segments: Iterable[Segment] = ()):
        self._segments = list(segments)

    def __iter__(self) -> Iterator[tuple[int, Segment]]:
        """Yield (first token, segment)."""
        at = 0
        for segment in self._segments:
            yield at, segment
            at += segment.tokens

    def __len__(self) -> int:
        """Count the segments."""
        return len(self._segments)

    @property
    def tokens(self) -> int:
        """Tokens of all segments."""
        return sum(segment.tokens for segment in self._segments)

    def append(self, segments: Iterable[Segment]) -> None:
        """Add some behind the others. Text behind text is one segment."""
        for segment in segments:
            if not segment.tokens:
                continue
            last = self._segments[-1] if self._segments else None
            if last is not None and not (last.image or segment.image):
                self._segments[-1] = Segment(last.tokens + segment.tokens)
            else:
                self._segments.append(segment)

    def truncate(self, tokens: int) -> None:
        """Forget all but the first tokens; a segment may be cut."""
        left, kept = tokens, []
        for segment in self._segments:
            if left <= 0:
                break
            if segment.tokens > left:
                segment = Segment(left, segment.image,
                                  tuple(at for at in segment.text if at < left))
            kept.append(segment)
            left -= segment.tokens
        self._segments = kept

    def remove(self, numbers: Sequence[int]) -> None:
        """Forget images, counted from 0 among those that are there."""
        images = [at for at, segment in enumerate(self._segments) if segment.image]
        gone = {images[number] for number in numbers}
        left = [segment for at, segment in enumerate(self._segments) if at not in gone]
        self._segments = []
        self.append(left)
