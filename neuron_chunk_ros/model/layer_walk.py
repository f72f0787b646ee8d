# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Running samples through the decoder layer by layer, with one layer's weights in memory.

What calibration needs: every linear layer's inputs, and what a layer's output becomes when some
of its rows are skipped. Memory is one layer and the samples' hidden states, whatever the model's
size. transformers stays the definition of the layer: it is called as it is, on flash-backed
linear layers that `Layer` multiplies for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.model.families import family_for
from neuron_chunk_ros.model.products import STEP
from neuron_chunk_ros.model.prompts import prompt_builder
from neuron_chunk_ros.model.resident import build_model, compute_dtype, read_config
from neuron_chunk_ros.model.streamer import DTYPES
from neuron_chunk_ros.storage.bundle import Bundle, Group
from neuron_chunk_ros.storage.calibration import KINDS
from neuron_chunk_ros.storage.reader import Reader

Sample = tuple[str, list[np.ndarray]]  # a prompt and its images, uint8 [height, width, 3] RGB

_BATCH_TOKENS = 2048   # bounds what one product takes
# Tokens of the samples that trials look at: a trial costs a pass through the layer for each, and
# a group's budget, a mean over all its rows, hardly needs more.
_TRIAL_TOKENS = 1024


@dataclass
class Batch:
    """Samples of equal length that go through a layer together."""

    samples: list[int]        # their numbers
    visual: torch.Tensor      # bool [samples, tokens]
    hidden: torch.Tensor      # [samples, tokens, width]: a layer's input, then its output
    arguments: list[dict]     # what transformers passes to each layer beside the hidden states
    trial: bool               # whether trials look at these samples

    def tokens(self, kind: str) -> torch.Tensor:
        """Return where this batch's tokens are of this kind, bool [samples, tokens]."""
        return self.visual if kind == 'visual' else ~self.visual


@dataclass
class Layer:
    """One decoder layer with its weights, the samples' inputs and its dense outputs.

    Stands in for the streamer behind the flash-backed linear layers.
    """

    groups: list[Group]                       # in the order they are computed
    batches: list[Batch]
    importance: dict[str, dict[str, np.ndarray]]  # group -> kind -> float32 [samples, rows]
    _module: torch.nn.Module
    _weights: Mapping[str, torch.Tensor]      # group -> [rows, columns]
    dense: list[torch.Tensor] = field(default_factory=list)  # each batch's output
    _kind: str = ''
    _sparsity: Mapping[str, float] = field(default_factory=dict)
    _batch: int = 0
    # (batch, group) -> its input, as masked, and product in the state that trials start from:
    # tokens whose input is the same again need no product
    _base: dict = field(default_factory=dict)
    _trial: dict = field(default_factory=dict)

    def run_dense(self) -> None:
        """Compute the layer's outputs and the importance of its inputs with nothing skipped."""
        self._kind = ''
        self.dense = [self._run(index) for index in range(len(self.batches))]

    def start(self, kind: str) -> None:
        """Begin trials that skip rows for the tokens of this kind; nothing is skipped yet."""
        self._kind, self._base, self._trial = kind, {}, {}
        self.settle({})

    def error(self, sparsity: Mapping[str, float]) -> float:
        """Return the squared L2 error of the outputs when each group skips so much of its rows.

        Each sample keeps its most important rows, one choice for all its tokens of the kind; its
        other tokens meet every row. Only samples in batches marked `trial` are looked at.
        """
        self._sparsity, self._trial = dict(sparsity), {}
        return sum(_squared(self._run(index).float() - dense.float())
                   for index, dense in self._trials())

    def settle(self, sparsity: Mapping[str, float]) -> None:
        """Let the next trials start from these sparsities: what stays equal is not computed."""
        if not self._trial or self._sparsity != dict(sparsity):
            self.error(sparsity)
        self._base.update(self._trial)

    def norm(self) -> float:
        """Return the squared L2 norm of the dense outputs that `error` compares with."""
        return sum(_squared(dense.float()) for _, dense in self._trials())

    def multiply(self, group: Group, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs @ W over the rows kept: [tokens, rows] -> [tokens, columns]."""
        if group.permutation is not None:
            order = torch.from_numpy(group.permutation).to(inputs.device)
            inputs = inputs.index_select(1, order)
        weights = self._weights[group.name]
        if not self._kind:
            self._record(group, inputs)
            return inputs @ weights
        key, sparsity = (self._batch, group.name), self._sparsity.get(group.name, 0.0)
        masked = self._masked(inputs, sparsity) if sparsity else inputs
        self._trial[key] = masked, self._product(masked, weights, *self._base.get(key, ()))
        return self._trial[key][1]

    def _trials(self) -> Iterator[tuple[int, torch.Tensor]]:
        return ((index, dense) for index, dense in enumerate(self.dense)
                if self.batches[index].trial)

    def _run(self, index: int) -> torch.Tensor:
        self._batch, batch = index, self.batches[index]
        out = self._module(batch.hidden, **batch.arguments[self._module.layer_idx])
        return out[0] if isinstance(out, tuple) else out

    def _masked(self, inputs: torch.Tensor, sparsity: float) -> torch.Tensor:
        tokens = self.batches[self._batch].tokens(self._kind)
        split = inputs.view(*tokens.shape, -1)
        importance = _importance(split, tokens)
        rows = split.shape[2]
        kept = max(1, round(rows * (1 - sparsity)))
        dropped = importance.argsort(dim=1, descending=True, stable=True)[:, kept:]
        mask = torch.zeros(importance.shape, dtype=torch.bool, device=inputs.device)
        mask.scatter_(1, dropped, True)
        return split.masked_fill(mask[:, None] & tokens[:, :, None], 0).view(inputs.shape)

    @staticmethod
    def _product(inputs: torch.Tensor, weights: torch.Tensor, known: torch.Tensor | None = None,
                 product: torch.Tensor | None = None) -> torch.Tensor:
        """Return inputs @ weights, given another input's product."""
        if known is None:
            return inputs @ weights
        changed = (known != inputs).any(dim=1).nonzero()[:, 0]
        if not len(changed):
            return product
        # a CPU's bfloat16 product makes itself ready for each new shape: let there be few
        padding = changed[-1:].expand(-len(changed) % STEP)
        changed = torch.cat([changed, padding])
        if len(changed) >= len(inputs):
            return inputs @ weights
        return product.index_put((changed,), inputs[changed] @ weights)

    def _record(self, group: Group, inputs: torch.Tensor) -> None:
        batch = self.batches[self._batch]
        for kind in KINDS:
            tokens = batch.tokens(kind)
            found = _importance(inputs.view(*tokens.shape, -1), tokens)
            self.importance[group.name][kind][batch.samples] = found.cpu().numpy()


def _importance(inputs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the mean magnitude over the tokens, float32 [samples, rows]."""
    weight = tokens.float() / tokens.sum(dim=1, keepdim=True).clamp(min=1)
    return (weight[:, None] @ inputs.abs().float())[:, 0]


def _squared(values: torch.Tensor) -> float:
    return float(values.square().sum(dtype=torch.float64))


class Walk:
    """A model opened for going through its layers one by one; a context manager."""

    def __init__(self, bundle: Bundle, device: str = 'cpu'):
        """Load what is resident. Raises RequestError for a bad device, BundleError, ReadError."""
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise RequestError(f"device '{device}' can't be used: "
                               f'{str(error).splitlines()[0]}') from error
        self.bundle, self.device = bundle, device
        raw, config = read_config(bundle)
        self._path = family_for(raw).decoder_path
        self._prompts = prompt_builder(bundle.family, bundle.path, config)
        self._dtype = compute_dtype(bundle, device)
        self._layer: Layer | None = None
        self._reader = Reader([str(path) for path in bundle.flash_files])
        try:
            self._model, _ = build_model(bundle, config, self, device)
        except BaseException:
            self._reader.close()
            raise
        self._buffers: dict[int, object] = {}
        self._decoder = self._model.get_submodule(self._path)

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_) -> None:
        self._buffers = {}
        self._reader.close()

    @property
    def layers(self) -> int:
        """How many decoder layers there are."""
        return len(self._decoder)

    def multiply(self, group: Group, inputs: torch.Tensor) -> torch.Tensor:
        """Have the current layer multiply (what flash-backed linear layers call)."""
        return self._layer.multiply(group, inputs)

    @torch.inference_mode()
    def run(self, samples: Iterable[Sample]) -> Iterator[Layer]:
        """Yield each layer, its dense outputs and importance computed.

        A layer is valid until the next one is asked for.

        :raises RequestError: for no sample at all, or one without image or prompt.
        """
        batches = self._batches(samples)
        count = sum(len(batch.samples) for batch in batches)
        for index, module in enumerate(self._decoder):
            prefix = f'{self._path}.{index}.'
            groups = [group for group in self.bundle.groups.values()
                      if group.members[0].name.startswith(prefix)]
            importance = {group.name: {kind: np.zeros((count, group.rows), np.float32)
                                       for kind in KINDS} for group in groups}
            module.layer_idx = index
            self._layer = Layer(groups, batches, importance, module, self._load(groups))
            self._layer.run_dense()
            yield self._layer
            for batch, output in zip(batches, self._layer.dense, strict=True):
                batch.hidden = output
            self._layer = None

    def _load(self, groups: list[Group]) -> dict[str, torch.Tensor]:
        weights = {}
        for index, group in enumerate(groups):
            file, extents = self.bundle.file_index(group), group.extents([[0, group.rows]])
            needed = self._reader.capacity(file, extents)
            if index not in self._buffers or self._buffers[index].nbytes < needed:
                self._buffers[index] = self._reader.allocate(needed)
            self._reader.read(file, extents, self._buffers[index])
            raw = torch.frombuffer(self._buffers[index], dtype=torch.uint8)[:group.nbytes]
            weights[group.name] = raw.view(DTYPES[group.dtype]).view(
                group.rows, group.columns).to(self.device, self._dtype)
        return weights

    def _batches(self, samples: Iterable[Sample]) -> list[Batch]:
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
            raise RequestError('calibrating needs at least one sample: a prompt and an image')
        return batches

    def _inputs(self, prompt: str, images: list[np.ndarray], number: int) -> dict:
        token = self._prompts.tokenizer.convert_ids_to_tokens
        reserved = [token(i) for i in self._prompts.visual_ids if token(i) in prompt]
        if not images or not prompt.strip() or reserved:
            fault = (f'its prompt contains {reserved[0]}, which is reserved for images'
                     if reserved else 'it needs a prompt and at least one image')
            raise RequestError(f'sample {number} cannot be used: {fault}')
        return self._prompts.build(prompt, images)

    def _embed(self, mates: list[tuple[int, dict]], trial: bool) -> Batch:
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
        return Batch([number for number, _ in mates],
                     torch.isin(inputs['input_ids'], visual_ids), seen[0].hidden,
                     [recorder.arguments for recorder in seen], trial)


class _Recorder(torch.nn.Module):
    """Takes a decoder layer's place to learn what transformers would call it with."""

    def forward(self, hidden_states: torch.Tensor, **arguments) -> torch.Tensor:
        self.hidden, self.arguments = hidden_states, arguments
        return hidden_states
