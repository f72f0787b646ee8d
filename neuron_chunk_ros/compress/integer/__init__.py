# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A model in integers alone, on two paths that agree (Torch2Chip, Meng et al. 2024).

The *training path* quantises and dequantises, and gradients go through it; the *integer path* has
nothing but integers, tables and multiply-shifts. Both are the same modules, found by their type.
"""
