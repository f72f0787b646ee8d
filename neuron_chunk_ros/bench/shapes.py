# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The decoders whose reads are measured: shapes only, all weights bfloat16.

A layer is four inputs, in the order in which a decoder needs them; the matrices of one input are
multiplied by the same activations and share a selection.
"""

from __future__ import annotations

from dataclasses import dataclass

ITEM_BYTES = 2  # bfloat16
LAYOUTS = ('bundled', 'separate')


@dataclass(frozen=True)
class Matrix:
    """Rows on flash: one input channel each, with the columns of one or more linear layers."""

    name: str
    rows: int
    columns: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.columns * ITEM_BYTES

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class Input:
    """What is read for one input of a layer: its matrices, all with the same rows."""

    name: str  # 'qkv', 'o', 'gate_up' or 'down'
    matrices: tuple[Matrix, ...]

    @property
    def rows(self) -> int:
        """Input channels."""
        return self.matrices[0].rows

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices."""
        return sum(matrix.nbytes for matrix in self.matrices)


@dataclass(frozen=True)
class Decoder:
    """A published decoder."""

    name: str
    label: str
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    layers: int

    def layer(self, layout: str = 'bundled') -> tuple[Input, ...]:
        """Return one layer's inputs in reading order.

        :param layout: 'bundled' stores q+k+v and gate+up row by row side by side, 'separate'
            each linear layer by itself (Neuron Chunking, Table 3).
        """
        if layout not in LAYOUTS:
            raise ValueError(f"layout is '{layout}', want one of {', '.join(LAYOUTS)}")
        wide, narrow = self.heads * self.head, self.kv_heads * self.head
        plan = {'qkv': (self.hidden, {'q': wide, 'k': narrow, 'v': narrow}),
                'o': (wide, {'o': self.hidden}),
                'gate_up': (self.hidden, {'gate': self.inner, 'up': self.inner}),
                'down': (self.inner, {'down': self.hidden})}
        inputs = []
        for name, (rows, members) in plan.items():
            if layout == 'bundled':
                members = {name: sum(members.values())}
            inputs.append(Input(name, tuple(Matrix(key, rows, columns)
                                            for key, columns in members.items())))
        return tuple(inputs)

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer's linear weights."""
        return sum(part.nbytes for part in self.layer())


DECODERS = {decoder.name: decoder for decoder in (
    Decoder('qwen2-0.5b', 'Qwen2-0.5B', 896, 4864, 14, 2, 64, 24),
    Decoder('qwen2-1.5b', 'Qwen2-1.5B', 1536, 8960, 12, 2, 128, 28),
    Decoder('qwen2-7b', 'Qwen2-7B', 3584, 18944, 28, 4, 128, 28),
    Decoder('llama-3-8b', 'Llama-3-8B', 4096, 14336, 32, 8, 128, 32),
)}
