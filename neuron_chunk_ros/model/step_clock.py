# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where steps begin and end: hooks on the model that keep time and close each step's bill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from neuron_chunk_ros.model.streamer import Streamer
from neuron_chunk_ros.model.telemetry import StepTelemetry


class StepClock:
    """Times vision and decoder of each pass, and remembers how sure each token was."""

    def __init__(self, model, streamer: Streamer, visual_ids: tuple[int, ...]):
        self._streamer, self._visual_ids = streamer, visual_ids
        model.register_forward_pre_hook(self._model_begins, with_kwargs=True)
        model.register_forward_hook(self._model_ends)
        model.model.language_model.register_forward_pre_hook(self._decoder_begins)
        self.start(None)

    def start(self, on_step: Callable[[StepTelemetry], None] | None) -> None:
        """Begin an answer."""
        self._on_step = on_step
        self.steps: list[StepTelemetry] = []
        self.vision_seconds = self.prefill_seconds = self.decode_seconds = 0.0
        self._log_probabilities: list[float] = []
        self._started = time.perf_counter()

    def confidence(self, tokens: int) -> float:
        """Return the geometric mean of the first `tokens` tokens' probabilities, 0 for none."""
        mine = self._log_probabilities[:tokens]
        return math.exp(sum(mine) / len(mine)) if mine else 0.0

    def _model_begins(self, model, args, kwargs) -> None:
        ids = kwargs['input_ids']
        self._tokens = ids.shape[1]
        self._step = 'prefill' if not self.steps else 'decode'
        visual = None
        if self._step == 'prefill':
            visual = torch.isin(ids[0], torch.tensor(self._visual_ids, device=ids.device))
        self._streamer.begin(self._step, visual)

    def _decoder_begins(self, module, args) -> None:
        self._begun = time.perf_counter()
        if self._step == 'prefill':
            # generate() may encode the images before it calls the model, so not from there on.
            self.vision_seconds = self._begun - self._started

    def _model_ends(self, model, args, out) -> None:
        # Greedy decoding takes the likeliest token, so its probability is the largest.
        last = out.logits[0, -1].float()
        self._log_probabilities.append(float(last.max() - last.logsumexp(0)))
        seconds = time.perf_counter() - self._begun
        if self._step == 'prefill':
            self.prefill_seconds += seconds
        else:
            self.decode_seconds += seconds
        bill = self._streamer.end(self._tokens, seconds)
        self.steps.append(bill)
        if self._on_step is not None:
            self._on_step(bill)
