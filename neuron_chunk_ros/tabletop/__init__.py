# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The small world that ships: scenes, questions, and a vision-language model trained on them."""
