# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A step: one pass through the decoder. It owns its time, its bill, its deadline and its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from neuron_chunk_ros.engine.telemetry import StepTelemetry

LOOK_EVERY = 0.02  # seconds that waiting for a read goes on before looking whether to stop


def _nothing(*_) -> None:
    pass


@dataclass(eq=False)
class Step:
    """Made by the runner ahead of a pass, handed down to whatever works for it."""

    kind: str                                # 'prefill', 'append', 'decode' or 'draft'
    tokens: int
    visual: torch.Tensor | None = None       # bool [tokens]; None where no token is visual
    logits: int = 0                          # tokens whose logits are wanted, the last ones
    check: Callable[[], None] = _nothing     # may raise to stop the step midway
    on_decoder: Callable[[], None] = _nothing        # called once the vision tower is through
    on_progress: Callable[[float], None] = _nothing  # told the share of groups that are done
    # Where given, takes (what, group, begin, end) on time.perf_counter's clock, see `mark`.
    trace: list[tuple[str, str, float, float]] | None = None
    deadline: float | None = None  # of the whole answer, on time.monotonic()'s clock
    made: float = field(default_factory=time.perf_counter)
    started: float = 0.0                     # the decoder's beginning, on perf_counter's clock
    ended: float = 0.0
    bill: StepTelemetry = field(init=False)
    _done: int = 0

    def __post_init__(self):
        self.bill = StepTelemetry(self.kind, tokens=self.tokens, importance_kept=0.0)

    def begin(self) -> None:
        """Note that the decoder begins."""
        self.started = time.perf_counter()
        self.on_decoder()

    def remaining(self) -> float:
        """Return the seconds until the deadline, endless where there is none."""
        return math.inf if self.deadline is None else self.deadline - time.monotonic()

    def group_done(self, groups: int) -> None:
        """Note that one more of so many groups has been multiplied."""
        self._done += 1
        self.on_progress(self._done / groups)

    def end(self) -> StepTelemetry:
        """Close the bill and hand it out."""
        self.ended = time.perf_counter()
        self.bill.seconds = self.ended - self.started
        rows = self.bill.rows_total
        self.bill.importance_kept = self.bill.importance_kept / rows if rows else 1.0
        return self.bill

    def mark(self, what: str, group: str, begin: float, end: float) -> None:
        """Enter a span of time in the trace, where one is kept."""
        if self.trace is not None:
            self.trace.append((what, group, begin, end))
