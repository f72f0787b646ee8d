# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Watches one vlm node from a terminal: known (what is known), view (how it looks), screen (the
terminal), listener (ROS), runner (the loop). It subscribes, and does nothing else to the robot.
"""
