# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Making bundles: from checkpoints or at random, calibrated, rewritten in another order."""
