# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Products as ONNX graphs, one file each: QuantizeLinear and DequantizeLinear, or QONNX's Quant.

Input and output are real numbers on the manifest's grids, so that graphs can be joined.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neuron_chunk_ros.compress.export.operations import Operation, file_name
from neuron_chunk_ros.errors import RecipeError

_OPSET = 21          # the first whose QuantizeLinear knows 16 bits
_QONNX_OPSET = 16
_QONNX_DOMAIN = 'qonnx.custom_op.general'


def write_graphs(folder: Path, operations: list[Operation], kind: str) -> list[str]:
    """Write OPERATION.onnx for each product; kind: 'onnx' or 'qonnx'. Return the names written.

    Raises RecipeError where the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise RecipeError(f'exports: {kind} needs the Python package onnx: pip install onnx'
                          ) from error
    folder.mkdir()
    written = []
    for one in operations:
        if one.kind == 'product' and (kind == 'qonnx' or one.numbers['input_bits'] in (8, 16)):
            graph = _qdq(one) if kind == 'onnx' else _quant(one)
            onnx.checker.check_model(graph) if kind == 'onnx' else None
            onnx.save(graph, str(folder / f'{file_name(one.name)}.onnx'))
            written.append(one.name)
    return written


def _constants(one: Operation) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Return weights [inputs, outputs], bias, and each output's scale of the weights."""
    weight = one.constants['weight'].astype(np.int64).T
    n = one.numbers
    # The multiplier is what hardware has; a graph gets the scales it stands for.
    ratio = one.constants['multiplier'].astype(np.float64) / 2.0 ** n['shift']
    scale = np.broadcast_to(ratio * n['scale'] / n['input_scale'], weight.shape[1])
    return weight, one.constants.get('bias'), scale.astype(np.float32)


def _qdq(one: Operation):
    from onnx import TensorProto, helper, numpy_helper
    n = one.numbers
    weight, bias, scale = _constants(one)
    input_type = np.int8 if n['input_bits'] == 8 else np.int16
    inputs, outputs = weight.shape
    constants = {
        'input_scale': np.float32(n['input_scale']), 'input_zero': input_type(0),
        'weight': weight.astype(np.int8), 'weight_scale': scale,
        'weight_zero': np.zeros(outputs, np.int8),
        'scale': np.float32(n['scale']), 'zero': np.int16(0)}
    nodes = [
        helper.make_node('QuantizeLinear', ['x', 'input_scale', 'input_zero'], ['x_codes']),
        helper.make_node('DequantizeLinear', ['x_codes', 'input_scale', 'input_zero'], ['x_real']),
        helper.make_node('DequantizeLinear', ['weight', 'weight_scale', 'weight_zero'],
                         ['weight_real'], axis=1),
        helper.make_node('MatMul', ['x_real', 'weight_real'], ['product'])]
    last = 'product'
    if bias is not None:
        constants |= {'bias': bias.astype(np.int32),
                      'bias_scale': scale * np.float32(n['input_scale']),
                      'bias_zero': np.zeros(outputs, np.int32)}
        nodes += [helper.make_node('DequantizeLinear', ['bias', 'bias_scale', 'bias_zero'],
                                   ['bias_real'], axis=0),
                  helper.make_node('Add', ['product', 'bias_real'], ['sum'])]
        last = 'sum'
    nodes += [helper.make_node('QuantizeLinear', [last, 'scale', 'zero'], ['y_codes']),
              helper.make_node('DequantizeLinear', ['y_codes', 'scale', 'zero'], ['y'])]
    return _model(helper, TensorProto, numpy_helper, one, nodes, constants, inputs, outputs,
                  [('', _OPSET)])


def _quant(one: Operation):
    from onnx import TensorProto, helper, numpy_helper
    n = one.numbers
    weight, bias, scale = _constants(one)
    inputs, outputs = weight.shape
    constants = {
        'input_scale': np.float32(n['input_scale']), 'scale': np.float32(n['scale']),
        'zero': np.float32(0), 'input_bits': np.float32(n['input_bits']),
        'weight_bits': np.float32(n['weight_bits']), 'bits': np.float32(n['bits']),
        'weight': (weight * scale).astype(np.float32), 'weight_scale': scale[None]}

    def quant(source: str, unit: str, bits: str, name: str):
        return helper.make_node('Quant', [source, unit, 'zero', bits], [name],
                                domain=_QONNX_DOMAIN, signed=1, narrow=0, rounding_mode='ROUND')

    nodes = [quant('x', 'input_scale', 'input_bits', 'x_real'),
             quant('weight', 'weight_scale', 'weight_bits', 'weight_real'),
             helper.make_node('MatMul', ['x_real', 'weight_real'], ['product'])]
    last = 'product'
    if bias is not None:
        constants['bias'] = (bias * scale * np.float32(n['input_scale'])).astype(np.float32)
        nodes.append(helper.make_node('Add', ['product', 'bias'], ['sum']))
        last = 'sum'
    nodes.append(quant(last, 'scale', 'bits', 'y'))
    # qonnx wants to know every shape between.
    count = len(one.vectors['input'])
    shapes = {'x_real': [count, inputs], 'weight_real': [inputs, outputs],
              'product': [count, outputs], 'sum': [count, outputs]}
    if bias is None:
        del shapes['sum']
    return _model(helper, TensorProto, numpy_helper, one, nodes, constants, inputs, outputs,
                  [('', _QONNX_OPSET), (_QONNX_DOMAIN, 1)], shapes)


def _model(helper, kinds, numpy_helper, one: Operation, nodes: list, constants: dict, inputs: int,
           outputs: int, opsets: list, shapes: dict | None = None):
    graph = helper.make_graph(
        nodes, file_name(one.name),
        [helper.make_tensor_value_info('x', kinds.FLOAT, [len(one.vectors['input']), inputs])],
        [helper.make_tensor_value_info('y', kinds.FLOAT, [len(one.vectors['input']), outputs])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        value_info=[helper.make_tensor_value_info(name, kinds.FLOAT, shape)
                    for name, shape in (shapes or {}).items()])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*opset) for opset in opsets], ir_version=10)
