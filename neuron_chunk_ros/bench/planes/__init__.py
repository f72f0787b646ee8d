# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`neuron-chunk bench planes`: error against bytes read, memory alike, one exam after another."""
