# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Measuring the method the way its paper does: accuracy, reading and selecting, on this storage.

Each of `accuracy`, `read`, `select` and `stream` measures, and hands out plain records; reports
make JSON, CSV and tables of them, and pictures. Nothing in the engine depends on this room.
"""
