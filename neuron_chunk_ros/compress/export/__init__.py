# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a chip's test bench loads: integers, golden vectors, memory images, C, ONNX, Verilog."""
