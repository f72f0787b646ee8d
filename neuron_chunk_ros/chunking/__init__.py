# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which neurons to read: importance, selection policies and the runs they choose."""

from neuron_chunk_ros.chunking.policies import POLICIES, make_policy
from neuron_chunk_ros.chunking.request import check_request

__all__ = ['POLICIES', 'check_request', 'make_policy']
