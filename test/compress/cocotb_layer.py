# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Run inside the simulator by cocotb: drives multiply_shift_layer and asserts golden vectors."""

import json
import os
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge


@cocotb.test()
async def outputs_are_golden(dut):
    """Every output of every vector is the exported one."""
    vectors = json.loads(Path(os.environ['GOLDEN']).read_text())
    bits = vectors['input_bits']
    Clock(dut.clk, 2, unit='ns').start()
    dut.reset.value, dut.start.value = 1, 0
    await FallingEdge(dut.clk)
    await FallingEdge(dut.clk)
    dut.reset.value = 0
    for given, golden in zip(vectors['input'], vectors['output'], strict=True):
        dut.x.value = sum((code & ((1 << bits) - 1)) << bits * at
                          for at, code in enumerate(given))
        dut.start.value = 1
        await FallingEdge(dut.clk)
        dut.start.value = 0
        found = []
        while len(found) < len(golden):
            await FallingEdge(dut.clk)
            if dut.y_valid.value == 1:
                found.append(dut.y.value.to_signed())
        assert found == golden
