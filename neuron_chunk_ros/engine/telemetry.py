# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a step and an answer cost: plain records, no logic beyond adding up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

BINS = 24
AnswerProgress = Callable[[str, float, str], None]  # (stage, share done, text so far)


@dataclass
class StepTelemetry:
    """One pass through the decoder, or the sum of an answer's passes."""

    step: str                    # 'prefill', 'append', 'decode', 'draft', or 'answer' for a sum
    tokens: int = 0              # tokens that went through the decoder
    tokens_drafted: int = 0      # of these, guesses that the step was to verify
    tokens_accepted: int = 0     # of these, right ones
    bytes_read: int = 0          # moved from the device, alignment included
    bytes_used: int = 0          # of these, bytes of chosen rows
    bytes_held: int = 0          # of rows multiplied that were in memory already
    chunks: int = 0              # runs of neighbouring rows chosen
    requests: int = 0            # reads the device was asked for
    rows_selected: int = 0       # multiplied: held in memory, or read
    rows_held: int = 0           # of these, held in memory
    rows_ahead: int = 0          # of the rows selected, read before they were chosen
    rows_ahead_wanted: int = 0   # of these, rows that would have been chosen anyhow
    rows_total: int = 0
    importance_kept: float = 1.0  # importance of the chosen rows / of all, mean over groups
    contiguity: list[int] = field(default_factory=lambda: [0] * BINS)
    # contiguity[k]: chunks of 2^k to 2^(k+1) - 1 rows
    read_seconds: float = 0.0    # at least one read in flight
    profile_seconds: float = 0.0  # of these, what the storage profile foretold
    estimated_seconds: float = 0.0  # the same, corrected by what earlier steps took
    wait_seconds: float = 0.0    # computing stood still for reads
    select_seconds: float = 0.0
    compute_seconds: float = 0.0  # flash-backed products
    seconds: float = 0.0         # the whole step
    deadline_missed: bool = False  # the step's own, see Session.open's deadline_ms
    # Rows that were to be read were not, and their bases had to do: the drive failed, or the
    # answer's deadline left no time.
    coarse: bool = False
    attention_density: float = 1.0  # pairs of tokens attended to / of causal attention
    fault: str = ''              # then what was wrong with the drive; '' where nothing was
    backend: str = ''            # 'io_uring' or 'threads'
    direct_io: bool = False

    @staticmethod
    def total(steps: Iterable[StepTelemetry]) -> StepTelemetry:
        """Add up an answer's steps; importance kept is weighted by the rows at stake."""
        steps = list(steps)
        result = StepTelemetry('answer')
        for name in ('tokens', 'tokens_drafted', 'tokens_accepted', 'bytes_read', 'bytes_used',
                     'bytes_held', 'chunks', 'requests',
                     'rows_selected', 'rows_held', 'rows_ahead', 'rows_ahead_wanted',
                     'rows_total', 'read_seconds',
                     'profile_seconds', 'estimated_seconds', 'wait_seconds',
                     'select_seconds', 'compute_seconds', 'seconds'):
            setattr(result, name, sum(getattr(s, name) for s in steps))
        result.contiguity = [sum(column) for column in zip(*(s.contiguity for s in steps),
                                                           strict=True)] or [0] * BINS
        tokens = sum(s.tokens for s in steps)
        if tokens:
            result.attention_density = sum(s.attention_density * s.tokens for s in steps) / tokens
        if result.rows_total:
            result.importance_kept = sum(
                s.importance_kept * s.rows_total for s in steps) / result.rows_total
        if steps:
            result.deadline_missed = any(s.deadline_missed for s in steps)
            # Drafts are meant to be.
            result.coarse = any(s.coarse for s in steps if s.step != 'draft')
            result.fault = next((s.fault for s in reversed(steps) if s.fault), '')
            result.backend, result.direct_io = steps[-1].backend, steps[-1].direct_io
        return result


@dataclass
class Timing:
    """Where an answer's time went [s]."""

    preprocess: float = 0.0      # prompt and pixels
    vision: float = 0.0          # from there until the decoder begins
    prefill: float = 0.0         # its first pass
    decode: float = 0.0          # its other passes
    total: float = 0.0


@dataclass
class Answer:
    """An answer and its bill."""

    text: str
    confidence: float            # geometric mean of the tokens' probabilities
    tokens: int
    finish_reason: str           # 'stop', 'length', 'deadline' or 'cancelled'
    timing: Timing
    io: StepTelemetry
    steps: list[StepTelemetry]
