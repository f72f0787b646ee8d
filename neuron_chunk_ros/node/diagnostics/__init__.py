# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How the node is, told on /diagnostics: what each part says, how bad it is, and when."""

from neuron_chunk_ros.node.diagnostics.publisher import Diagnostics
from neuron_chunk_ros.node.diagnostics.thresholds import ERROR, OK, STALE, WARN, Status

__all__ = ['ERROR', 'OK', 'STALE', 'WARN', 'Diagnostics', 'Status']
