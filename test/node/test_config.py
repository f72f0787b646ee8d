# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""config/vlm.yaml names every parameter, at its default, within its range."""

from pathlib import Path

import yaml

from neuron_chunk_ros.node.parameters import PARAMETERS

FILE = Path(__file__).resolve().parents[2] / 'config' / 'vlm.yaml'


def test_file_and_node_agree():
    (section, content), = yaml.safe_load(FILE.read_text()).items()
    assert section == '/**'
    written = content['ros__parameters']
    assert written == {parameter.name: parameter.default for parameter in PARAMETERS}
    # An integer where the node declares a double would be refused.
    assert {k: type(v) for k, v in written.items()} == {
        parameter.name: type(parameter.default) for parameter in PARAMETERS}


def test_every_parameter_is_described_and_bounded():
    for parameter in PARAMETERS:
        assert parameter.description.endswith('.')
        if isinstance(parameter.default, str):
            assert not parameter.choices or parameter.default in parameter.choices
        elif isinstance(parameter.default, (bool, list)):
            assert parameter.span is None
        else:
            assert parameter.span[0] <= parameter.default <= parameter.span[1]
            assert type(parameter.span[0]) is type(parameter.default)
