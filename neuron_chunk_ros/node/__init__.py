# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""ROS 2: the `vlm` node, its tabletop camera and the demo. The only room that imports rclpy."""
