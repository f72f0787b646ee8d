# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The demo: a simulated camera, a client that asks the real node, pictures and a table."""
