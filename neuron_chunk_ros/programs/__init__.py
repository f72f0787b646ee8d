# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What runs beside the node: the demo, the monitor, playing recordings."""
