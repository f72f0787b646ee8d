# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A session: one opened bundle that answers questions about images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from neuron_chunk_ros.chunking import POLICIES
from neuron_chunk_ros.chunking.budgets import Budgets
from neuron_chunk_ros.errors import BundleError, RequestError
from neuron_chunk_ros.model.chooser import Chooser
from neuron_chunk_ros.model.prompts import prompt_builder
from neuron_chunk_ros.model.resident import (
    MIB,
    MemoryPlan,
    build_model,
    compute_dtype,
    kv_bytes,
    read_config,
)
from neuron_chunk_ros.model.step_clock import StepClock
from neuron_chunk_ros.model.streamer import Streamer
from neuron_chunk_ros.model.telemetry import Answer, StepTelemetry, Timing
from neuron_chunk_ros.storage.bundle import Bundle
from neuron_chunk_ros.storage.profile import Profile
from neuron_chunk_ros.storage.reader import Reader

DEFAULT_CONTEXT = 4096


class _Stopped(Exception):
    """The deadline came or the caller cancelled; carries the finish reason."""


class _Tokens(BaseStreamer):
    """Collects generated tokens, so that an interrupted answer keeps what it had."""

    def __init__(self):
        self.ids: list[int] = []
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            self.ids += value.flatten().tolist()
        self._prompt_seen = True

    def end(self) -> None:
        pass


class Session:
    """Answers questions with a model whose decoder weights are read from flash at each step.

    Not for use from several threads at once. A context manager; `close` frees everything.
    """

    def __init__(self, bundle: Bundle, config, model, groups, streamer: Streamer, reader: Reader,
                 plan: MemoryPlan, context: int, profile_note: str):
        """Use `Session.open`."""
        self.profile_note = profile_note  # why no measured profile is in use; '' where one is
        self.bundle, self.config, self.plan, self.context = bundle, config, plan, context
        self._model, self._groups = model, groups
        self._streamer, self._reader = streamer, reader
        self._prompts = prompt_builder(bundle.family, bundle.path, config)
        self._clock = StepClock(model, streamer, self._prompts.visual_ids)
        self._generation = self._greedy_decoding()

    @classmethod
    def open(cls, bundle: str | Path, *, policy: str = 'dense', sparsity: float = 0.0,
             text_sparsity: float = 0.0, deadline_ms: float = 0.0,
             profile: Profile | None = None, memory_budget_mb: int | None = None,
             max_context: int = DEFAULT_CONTEXT, piece_mb: float = 8, device: str = 'cpu',
             backend: str = 'auto', direct: str = 'auto', threads: int = 6,
             queue_depth: int = 128) -> Session:
        """Open a bundle.

        :param policy: 'dense', 'topk', 'greedy' or 'optimal'.
        :param sparsity: fraction of the decoder not read for visual and for generated tokens,
            [0, 1). A calibrated bundle spreads it over the groups so that it hurts least.
        :param text_sparsity: the same for the text tokens of a prompt.
        :param deadline_ms: milliseconds that each step may take, in place of the fractions; 0:
            none. What is read is then what keeps most importance in that time.
        :param profile: of the storage; by default the one measured beside the bundle.
        :param memory_budget_mb: refuse before loading where resident weights, read buffers and
            KV cache together need more.
        :param max_context: prompt and answer tokens the KV cache may hold.
        :param piece_mb: size of each of the three read buffers.
        :param device: torch device of everything resident.
        :param backend, direct, threads, queue_depth: see storage.reader.Reader.
        :raises BundleError, MemoryBudgetError, ReadError: see errors.py.
        :raises ValueError: for a policy, sparsity or device that doesn't exist.
        """
        _check_policy(policy, sparsity, text_sparsity, deadline_ms)
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device '{device}' can't be used: {str(error).splitlines()[0]}"
                             ) from error
        bundle = Bundle.open(bundle)
        _, config = read_config(bundle)
        text = config.text_config
        context = min(max_context, text.max_position_embeddings)
        reader = Reader([str(p) for p in bundle.flash_files], backend=backend, direct=direct,
                        threads=threads, queue_depth=queue_depth)
        try:
            note = ''
            if profile is None:
                profile, note = Profile.find(bundle.path)
            chooser = Chooser(bundle, _budgets(bundle), profile or Profile.assumed(),
                              reader.block_size)
            chooser.configure(policy, sparsity, text_sparsity, deadline_ms)
            streamer = Streamer(bundle, reader, chooser, int(piece_mb * MIB))
            dtype = compute_dtype(bundle, device)
            plan = MemoryPlan(bundle.resident_bytes, streamer.buffer_bytes,
                              kv_bytes(text, context, dtype))
            plan.check(memory_budget_mb)
            model, groups = build_model(bundle, config, streamer, device)
            return cls(bundle, config, model, groups, streamer, reader, plan, context, note)
        except BaseException:
            reader.close()
            raise

    @property
    def model_name(self) -> str:
        """What the model is called: its source folder's name."""
        return str(self.bundle.provenance.get('source') or self.bundle.path.name)

    @property
    def policy(self) -> str:
        """The selection policy."""
        return self._streamer.chooser.policy

    @property
    def sparsity(self) -> float:
        """Fraction of the decoder not read for visual and generated tokens."""
        return self._streamer.chooser.sparsity

    @property
    def profile(self) -> Profile:
        """The storage profile in use; its `source` says where it comes from."""
        return self._streamer.chooser.profile

    @property
    def direct_io(self) -> bool:
        """Whether reads bypass the page cache."""
        return self._reader.direct

    @property
    def backend(self) -> str:
        """The reader's back end."""
        return self._reader.backend

    @property
    def notes(self) -> list[str]:
        """What the reader fell back from, and why."""
        return list(self._reader.notes)

    def configure(self, *, policy: str | None = None, sparsity: float | None = None,
                  text_sparsity: float | None = None, deadline_ms: float | None = None) -> None:
        """Change what is skipped; what is None stays. Raises ValueError."""
        now = self._streamer.chooser
        wanted = [new if new is not None else old for new, old in (
            (policy, now.policy), (sparsity, now.sparsity), (text_sparsity, now.text_sparsity),
            (deadline_ms, now.deadline_ms))]
        _check_policy(*wanted)
        self._streamer.abandon()
        now.configure(*wanted)

    def memory(self) -> dict[str, float]:
        """Return what the session takes [MiB], by kind; `flash` is what stays on flash."""
        return {'resident': self.plan.resident / MIB, 'buffers': self.plan.buffers / MIB,
                'kv_cache': self.plan.kv_cache / MIB, 'total': self.plan.total / MIB,
                'flash': self.bundle.flash_bytes / MIB}

    def prepare(self, prompt: str, images: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Return the model's inputs for a question, on the session's device.

        :raises RequestError: for an empty prompt or an image that isn't uint8 [h, w, 3].
        """
        if not prompt.strip():
            raise RequestError('the prompt is empty: ask a question')
        for number, image in enumerate(images, start=1):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise RequestError(f'image {number} is {image.dtype} {list(image.shape)}: uint8 '
                                   '[height, width, 3] RGB is needed')
            if 0 in image.shape:
                raise RequestError(f'image {number} is empty ({image.shape[1]} x '
                                   f'{image.shape[0]} pixels)')
        # A placeholder typed by the user would ask for pixels that aren't there.
        for token in self._prompts.visual_ids:
            text = self._prompts.tokenizer.convert_ids_to_tokens(token)
            if text in prompt:
                raise RequestError(f'the prompt contains {text}, which is reserved for images')
        inputs = self._prompts.build(prompt, images)
        return {k: v.to(self._model.device, self._model.dtype) if v.is_floating_point()
                else v.to(self._model.device) for k, v in inputs.items()}

    @torch.inference_mode()
    def ask(self, prompt: str, images: Sequence[np.ndarray], *, max_new_tokens: int = 32,
            deadline: float | None = None,
            on_step: Callable[[StepTelemetry], None] | None = None,
            cancelled: Callable[[], bool] | None = None) -> Answer:
        """Answer a question about images.

        :param images: uint8 [height, width, 3] RGB each, in the order the prompt counts them.
        :param deadline: seconds from now; when it comes, the answer is what there is by then.
        :param on_step: called with each step's bill as the step ends.
        :param cancelled: asked between reads; a true answer ends the work.
        :raises RequestError: for a question that can't be answered as asked.
        :raises ReadError: when reading from flash fails; the session stays usable.
        """
        started = time.monotonic()
        inputs = self.prepare(prompt, images)
        asked = inputs['input_ids'].shape[1]
        if asked + max_new_tokens > self.context:
            raise RequestError(
                f'the question needs {asked} tokens and {max_new_tokens} more for the answer, '
                f'the context holds {self.context}: fewer or smaller images, or fewer new tokens')
        preprocess = time.monotonic() - started

        def check() -> None:
            if deadline is not None and time.monotonic() - started > deadline:
                raise _Stopped('deadline')
            if cancelled is not None and cancelled():
                raise _Stopped('cancelled')

        tokens = _Tokens()
        self._generation.max_new_tokens = max_new_tokens
        self._streamer.check = check
        self._clock.start(on_step)
        try:
            self._model.generate(**inputs, generation_config=self._generation, streamer=tokens)
            reason = 'stop' if tokens.ids[-1] in self._stops else 'length'
        except _Stopped as stop:
            reason = str(stop)
            self._abandon()
        except BaseException:
            self._abandon()
            raise
        finally:
            self._streamer.check = lambda: None
        ids = [t for t in tokens.ids if t not in self._stops]
        clock = self._clock
        timing = Timing(preprocess, clock.vision_seconds, clock.prefill_seconds,
                        clock.decode_seconds, time.monotonic() - started)
        text = self._prompts.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Answer(text, clock.confidence(len(tokens.ids)), len(ids), reason, timing,
                      StepTelemetry.total(clock.steps), clock.steps)

    def close(self) -> None:
        """Free the model, the buffers and the reader. A second call does nothing."""
        if self._reader is None:
            return
        self._streamer.close()
        self._reader.close()
        self._model = self._streamer = self._reader = self._clock = None
        self._groups = []

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _abandon(self) -> None:
        """Put everything back in order after a step that didn't end."""
        self._streamer.abandon()
        for group in self._groups:
            group.forget()

    def _greedy_decoding(self) -> GenerationConfig:
        """Return plain greedy decoding with the model's own end tokens."""
        try:
            own = GenerationConfig.from_pretrained(self.bundle.path, local_files_only=True)
        except OSError:
            own = GenerationConfig.from_model_config(self.config)
        stops = own.eos_token_id
        if stops is None:
            stops = self._prompts.tokenizer.eos_token_id
        if stops is None:
            raise BundleError(f'{self.bundle.path}: neither generation_config.json nor the '
                              'tokenizer names an end token')
        self._stops = set(stops if isinstance(stops, list) else [stops])
        pad = own.pad_token_id if own.pad_token_id is not None else min(self._stops)
        return GenerationConfig(do_sample=False, num_beams=1, eos_token_id=sorted(self._stops),
                                pad_token_id=pad)


def _budgets(bundle: Bundle) -> Budgets:
    try:
        return Budgets.from_calibration(bundle.calibration)
    except ValueError as error:
        raise BundleError(f'{bundle.path}: {error}; calibrate it again') from error


def _check_policy(policy: str, sparsity: float, text_sparsity: float,
                  deadline_ms: float) -> None:
    if policy not in POLICIES:
        raise ValueError(f"unknown policy '{policy}': choose one of {', '.join(POLICIES)}")
    for name, value in (('sparsity', sparsity), ('text_sparsity', text_sparsity)):
        if not (0 <= value < 1) or math.isnan(value):
            raise ValueError(f'{name} is {value}: it must be at least 0 and below 1')
    if not (0 <= deadline_ms < math.inf):
        raise ValueError(f'deadline_ms is {deadline_ms}: it must be at least 0 (0: none)')
    if deadline_ms and policy == 'dense':
        raise ValueError("policy 'dense' reads everything and can't keep deadline_ms: choose "
                         "'optimal'")
