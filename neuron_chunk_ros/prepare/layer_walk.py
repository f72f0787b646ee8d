# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Running samples through the decoder layer by layer, with one layer's weights in memory.

What calibration needs. Memory is one layer and the samples' hidden states, whatever the model's
size.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from neuron_chunk_ros.engine.device import check_device
from neuron_chunk_ros.engine.resident import build_model, close_model, read_config
from neuron_chunk_ros.engine.rows import compute_dtype, stored, widen, widen_split
from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.families import family_for, prompt_builder
from neuron_chunk_ros.prepare.layer_trials import Layer, SampleBatch
from neuron_chunk_ros.storage.bundle import Bundle, Group
from neuron_chunk_ros.storage.calibration import KINDS
from neuron_chunk_ros.storage.reader import Reader
from neuron_chunk_ros.storage.side_files import SideFiles
from neuron_chunk_ros.storage.source_groups import SourceGroups

Sample = tuple[str, list[np.ndarray]]  # a prompt and its images, uint8 [height, width, 3] RGB

_BATCH_TOKENS = 2048   # bounds what one product takes
# Tokens of the samples that trials look at: a trial costs a pass through the layer for each, and
# a group's budget, a mean over all its rows, hardly needs more.
_TRIAL_TOKENS = 1024


class Walk:
    """A model opened for going through its layers one by one; a context manager."""

    def __init__(self, bundle: Bundle, device: str = 'cpu', images_needed: bool = True):
        """Load what is resident. Raises RequestError for a bad device, BundleError, ReadError.

        :param images_needed: whether a sample without an image is refused.
        """
        self._images_needed = images_needed
        try:
            check_device(device)
        except ValueError as error:
            raise RequestError(str(error)) from error
        self.bundle, self.device = bundle, device
        raw, config = read_config(bundle)
        self._path = family_for(raw).decoder_path
        self._prompts = prompt_builder(bundle.family, SideFiles.of_bundle(bundle), config)
        self._dtype = compute_dtype(bundle.dtype, device)
        self._layer: Layer | None = None
        self._reader = Reader([str(path) for path in bundle.flash_files])
        try:
            self._model, _ = build_model(bundle, config, self, device)
        except BaseException:
            self._reader.close()
            raise
        self._buffer = None
        self._decoder = self._model.get_submodule(self._path)

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_) -> None:
        self._buffer = None
        close_model(self._model)
        self._reader.close()

    @property
    def layers(self) -> int:
        """How many decoder layers there are."""
        return len(self._decoder)

    def multiply(self, group: Group, inputs: torch.Tensor) -> torch.Tensor:
        """Have the current layer multiply (what flash-backed linear layers call)."""
        return self._layer.multiply(group, inputs)

    # Not decorated with inference_mode: that would hold on to a layer until the next one is there.
    def run(self, samples: Iterable[Sample], make: type[Layer] = Layer) -> Iterator[Layer]:
        """Yield each layer, its dense outputs and importance computed.

        A layer is valid until the next one is asked for; what its `dense` is then goes into that.
        The samples' hidden states behind the last one are in `last`. Towers are let go of.

        :param make: what to make of each layer.

        :raises RequestError: for no sample at all, or one without image or prompt.
        """
        with torch.inference_mode():
            batches = self._batches(samples)
        self._release()
        count = sum(len(batch.samples) for batch in batches)
        for index, module in enumerate(self._decoder):
            prefix = f'{self._path}.{index}.'
            groups = [group for group in self.bundle.groups.values()
                      if group.members[0].name.startswith(prefix)]
            importance = {group.name: {kind: np.zeros((count, group.rows), np.float32)
                                       for kind in KINDS} for group in groups}
            with torch.inference_mode():
                self._layer = make(groups, batches, importance, index, module,
                                   self._load(groups))
                self._buffer = None
                self._layer.run_dense()
            yield self._layer
            for batch, output in zip(batches, self._layer.dense, strict=True):
                batch.hidden = output
            self._layer = None
        self.last = [batch.hidden for batch in batches]

    def normalised(self) -> Iterator[torch.Tensor]:
        """Yield what the LM head gets of the samples, [tokens, width] a batch, after `run`."""
        norm = self._model.get_submodule(self._path.rpartition('.')[0]).norm
        with torch.inference_mode():
            for hidden in self.last:
                yield norm(hidden).flatten(0, 1)

    def _release(self) -> None:
        """Let go of everything but the decoder: vision towers are large."""
        inner = self._path.split('.')[1]
        for name, _ in list(self._model.model.named_children()):
            if name != inner:
                setattr(self._model.model, name, None)
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # glibc keeps what was freed
            ctypes.CDLL(None).malloc_trim(0)

    def _load(self, groups: list[Group]) -> dict[str, torch.Tensor]:
        weights = {}
        for group in groups:
            file, extents = self.bundle.file_index(group), group.extents([[0, group.rows]])
            needed = self._reader.capacity(file, extents)
            if self._buffer is None or self._buffer.nbytes < needed:
                self._buffer = None  # never two at once
                self._buffer = self._reader.allocate(needed)
            self._reader.read(file, extents, self._buffer)
            raw = torch.frombuffer(self._buffer, dtype=torch.uint8)[:group.nbytes]
            rows = stored(raw, group, group.rows)
            made = weights[group.name] = torch.empty(group.rows, group.columns, dtype=self._dtype,
                                                     device=self.device)
            if group.split is None:
                widen(rows, group, made)
            else:
                with SourceGroups(self.bundle) as sources:
                    base = torch.from_numpy(sources.load([group.base])[group.base.name])
                    widen_split(base.to(self.device), None, rows, group, made)
        return weights

    def _batches(self, samples: Iterable[Sample]) -> list[SampleBatch]:
        """Embed the samples; those of equal length share a batch."""
        batches, waiting, count, tried = [], {}, 0, 0
        for prompt, images in samples:
            inputs = self._inputs(prompt, images, count)
            length = inputs['input_ids'].shape[1]
            trial = count == 0 or tried + length <= _TRIAL_TOKENS
            tried += trial * length
            mates = waiting.setdefault((length, trial), [])
            mates.append((count, inputs))
            count += 1
            if (len(mates) + 1) * length > _BATCH_TOKENS:
                batches.append(self._embed(waiting.pop((length, trial)), trial))
        batches += [self._embed(mates, key[1]) for key, mates in waiting.items()]
        if not batches:
            raise RequestError('at least one sample is needed: a prompt and an image')
        return batches

    def _inputs(self, prompt: str, images: list[np.ndarray], number: int) -> dict:
        if (self._images_needed and not images) or not prompt.strip():
            raise RequestError(f'sample {number} cannot be used: it needs a prompt and at least '
                               'one image')
        return self._prompts.build(prompt, images)

    def _embed(self, mates: list[tuple[int, dict]], trial: bool) -> SampleBatch:
        inputs = {key: torch.cat([one[key] for _, one in mates]) for key in mates[0][1]}
        inputs = {key: value.to(self.device, self._dtype) if value.is_floating_point()
                  else value.to(self.device) for key, value in inputs.items()}
        visual_ids = torch.tensor(self._prompts.visual_ids, device=self.device)
        parent, _, name = self._path.rpartition('.')
        seen = [_Recorder() for _ in self._decoder]
        setattr(self._model.get_submodule(parent), name, torch.nn.ModuleList(seen))
        try:
            self._model.model(**inputs, use_cache=False)
        finally:
            setattr(self._model.get_submodule(parent), name, self._decoder)
        return SampleBatch([number for number, _ in mates],
                     torch.isin(inputs['input_ids'], visual_ids), seen[0].hidden,
                     [recorder.arguments for recorder in seen], trial)


class _Recorder(torch.nn.Module):
    """Takes a decoder layer's place to learn what transformers would call it with."""

    def forward(self, hidden_states: torch.Tensor, **arguments) -> torch.Tensor:
        self.hidden, self.arguments = hidden_states, arguments
        return hidden_states
