# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What Neuron Chunking (arXiv 2511.18692) reports, for tables that stand beside its figures."""

# Speed-up of I/O at equal accuracy against top-k, by device: section 5.2.
SPEEDUPS = {'orin-nano': {'mean': 2.19, 'best': 4.65}, 'agx-orin': {'mean': 2.89, 'best': 5.76}}
LABELS = {'orin-nano': 'Orin Nano', 'agx-orin': 'Orin AGX'}
