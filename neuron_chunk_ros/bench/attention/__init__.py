# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`neuron-chunk bench attention`: what classes of heads cost in answers and save in time."""
