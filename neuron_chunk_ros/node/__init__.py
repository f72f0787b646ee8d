# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""ROS 2: the `vlm` node and the programs beside it. The only room that imports rclpy.

From the outside in: `vlm_node` is the process, `lifecycle` the states, `vlm` topics and services,
`active` what works while the node is active: `cameras`, the `worker`, and what gives it work,
`answering`, `streaming` and `standing`. `monitor`, `playback` and `demo` are programs beside it.
"""
