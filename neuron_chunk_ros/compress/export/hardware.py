# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A Verilog layer, and for each product what its self-checking bench loads."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from neuron_chunk_ros.compress.export.memory import image
from neuron_chunk_ros.compress.export.operations import Operation, file_name

_SOURCES = resources.files('neuron_chunk_ros.compress.export') / 'verilog'
_VECTORS = 4  # of a layer's bench

README = '''A linear layer in Verilog and a bench that asserts golden vectors. With Icarus Verilog:

    cd LAYER && iverilog -g2012 -I. -o bench ../bench.v ../multiply_shift_layer.v && vvp bench

Each folder has a layer's memory images, its golden vectors and its parameters (layer.vh).
'''


def write_benches(folder: Path, operations: list[Operation], word_bits: int) -> list[str]:
    """Write the Verilog sources, and a folder of images for each product. Return the products."""
    folder.mkdir()
    for name in ('multiply_shift_layer.v', 'bench.v'):
        (folder / name).write_text((_SOURCES / name).read_text())
    (folder / 'README.txt').write_text(README)
    written = []
    for one in operations:
        if one.kind == 'product':
            _write_layer(folder / file_name(one.name), one, word_bits)
            written.append(one.name)
    return written


def _write_layer(folder: Path, one: Operation, word_bits: int) -> None:
    folder.mkdir()
    n, weight = one.numbers, one.constants['weight']
    outputs, inputs = weight.shape
    weight_bits = 8 * weight.itemsize
    input_bits = 8 if n['input_bits'] <= 8 else 16
    multiplier = np.broadcast_to(one.constants['multiplier'], outputs).astype(np.int32)
    bias = one.constants.get('bias', np.zeros(outputs, np.int32)).astype(np.int32)
    vectors, golden = one.vectors['input'][:_VECTORS], one.vectors['output'][:_VECTORS]
    images = {
        'weight': image(weight, max(word_bits, weight_bits), weight_bits),
        'bias': image(bias[:, None], 32, 32), 'multiplier': image(multiplier[:, None], 32, 32),
        'golden_inputs': image(vectors.reshape(-1, 1), input_bits, input_bits),
        'golden_outputs': image(golden.reshape(-1, 1), 16, 16)}
    for name, text in images.items():
        (folder / f'{name}.mem').write_text(text)
    numbers = {
        'INPUTS': inputs, 'OUTPUTS': outputs, 'LANES': max(word_bits, weight_bits) // weight_bits,
        'INPUT_BITS': input_bits, 'WEIGHT_BITS': weight_bits, 'MULTIPLIER_BITS': 32,
        'OUTPUT_BITS': 16, 'SHIFT': n['shift'], 'VECTORS': len(vectors)}
    files = {'WEIGHTS': 'weight', 'BIASES': 'bias', 'MULTIPLIERS': 'multiplier',
             'GOLDEN_INPUTS': 'golden_inputs', 'GOLDEN_OUTPUTS': 'golden_outputs'}
    (folder / 'layer.vh').write_text(
        f'// {one.name}\n'
        + ''.join(f'localparam {key} = {value};\n' for key, value in numbers.items())
        + ''.join(f'localparam {key} = "{value}.mem";\n' for key, value in files.items()))
