# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Wall clock from a frame to its words, beside others, under a memory ceiling."""
