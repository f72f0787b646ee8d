# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Steps to compare: what each contender would read of one decoder layer.

A step reads a layer input after input, as an engine must that can choose for an input only when
it knows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from neuron_chunk_ros.bench.contestants import Contender, EqualImportance
from neuron_chunk_ros.bench.importance import Source
from neuron_chunk_ros.bench.shapes import Decoder
from neuron_chunk_ros.chunking import runs


@dataclass(frozen=True)
class ReadStep:
    """One contender's choice for all inputs of a layer."""

    decoder: str
    layout: str
    source: str
    sparsity: float
    contender: Contender
    kept: float          # share of the importance, mean over the inputs
    rows: float          # share of the layer's bytes that chosen rows make up
    run_count: int
    estimated: float     # seconds, by the profile
    chosen: tuple[tuple[np.ndarray, ...], ...] = field(repr=False)  # [input][matrix] -> runs

    @property
    def key(self) -> tuple:
        """What makes reads the same: the reader, the layout and every run."""
        return (self.contender.reader, self.layout,
                *(found.tobytes() for part in self.chosen for found in part))


def plan(decoder: Decoder, layout: str, drawn: Sequence[Source], sparsities: Sequence[float],
         contenders: Sequence[Contender], chooser: EqualImportance) -> Iterator[ReadStep]:
    """Yield the step of every contender at every source and sparsity.

    At one source and sparsity all keep the same importance of every input, dense apart.
    """
    inputs = decoder.layer(layout)
    for source in drawn:
        values = [source.draw(part.name, part.rows, 0) for part in inputs]
        for sparsity in sparsities:
            by_policy: dict[str, tuple] = {}
            for contender in contenders:
                policy = contender.policy
                if policy not in by_policy:
                    by_policy[policy] = tuple(
                        tuple(chooser.choose(policy, part, value, sparsity))
                        for part, value in zip(inputs, values, strict=True))
                yield _step(decoder, layout, source, sparsity, contender, by_policy[policy],
                            values, chooser)


def _step(decoder: Decoder, layout: str, source: Source, sparsity: float, contender: Contender,
          chosen: tuple, values: Sequence[np.ndarray], chooser: EqualImportance) -> ReadStep:
    inputs = decoder.layer(layout)
    kept, read, estimated = [], 0, 0.0
    for part, value, found in zip(inputs, values, chosen, strict=True):
        # The matrices of one input may keep different rows; each keeps at least what it must.
        kept.append(min(value[runs.indices(one)].sum(dtype=np.float64) for one in found)
                    / value.sum(dtype=np.float64))
        read += sum(runs.count(one) * matrix.row_bytes
                    for matrix, one in zip(part.matrices, found, strict=True))
        estimated += chooser.seconds(part, list(found))
    return ReadStep(decoder.name, layout, source.name, sparsity, contender, float(np.mean(kept)),
                read / decoder.layer_bytes, sum(len(one) for found in chosen for one in found),
                estimated, chosen)
