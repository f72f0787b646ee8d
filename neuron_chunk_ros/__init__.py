# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Vision-language models that stay on flash: only the neurons a frame needs are read."""

__version__ = '0.1.0'
