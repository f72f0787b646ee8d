# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where a step begins and ends: a step is one pass through the decoder, the vision tower ahead."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from neuron_chunk_ros.engine.flash_products import FlashProducts
from neuron_chunk_ros.engine.telemetry import StepTelemetry


class StepClock:
    """Times vision and decoder of each pass, opens and closes its bill."""

    def __init__(self, model, streamer: FlashProducts):
        self._streamer = streamer
        self._hook = model.model.language_model.register_forward_pre_hook(self._decoder_begins)
        self.stop()

    def start(self, on_step: Callable[[StepTelemetry], None] | None) -> None:
        """Begin an answer."""
        self._on_step = on_step
        self.steps: list[StepTelemetry] = []
        self.vision_seconds = self.prefill_seconds = self.decode_seconds = 0.0

    def stop(self) -> None:
        """Let go of the callbacks."""
        self._on_step = self._on_decoder = self._expected = None

    def expect(self, step: str, visual: torch.Tensor | None,
               on_decoder: Callable[[], None] | None = None) -> None:
        """Take the next pass for a step.

        :param visual: bool [tokens], True at visual tokens; None where there are none.
        :param on_decoder: called when the vision tower is through.
        """
        self._expected, self._on_decoder = (step, visual), on_decoder
        self._waited = time.perf_counter()

    def end(self, tokens: int) -> StepTelemetry:
        """Close the step's bill and hand it out."""
        seconds = time.perf_counter() - self._begun
        if self._step == 'decode':
            self.decode_seconds += seconds
        else:
            self.prefill_seconds += seconds
        bill = self._streamer.end(tokens, seconds)
        self.steps.append(bill)
        if self._on_step is not None:
            self._on_step(bill)
        return bill

    def close(self) -> None:
        """Take the hook off the model."""
        self._hook.remove()

    def _decoder_begins(self, module, args) -> None:
        if self._expected is None:
            return  # not one of our passes
        self._step, visual = self._expected
        self._expected = None
        self._begun = time.perf_counter()
        if self._step != 'decode':
            self.vision_seconds += self._begun - self._waited
        self._streamer.begin(self._step, visual)
        if self._on_decoder is not None:
            self._on_decoder()
