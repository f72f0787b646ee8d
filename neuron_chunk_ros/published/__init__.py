# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What others made, fetched when it is needed and never shipped: a decoder, and an exam.

SmolLM2-135M-Instruct judges what bundles do to a decoder that nobody here trained; easy-VQA asks
about pictures that nobody here drew. A vision tower trained between the two is our own.
"""
