# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Running a model whose decoder stays on flash: `session.Session` and what it is made of."""
