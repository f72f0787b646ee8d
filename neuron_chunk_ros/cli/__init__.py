# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The console command `neuron-chunk`: thin sub-commands that parse, call and print."""
