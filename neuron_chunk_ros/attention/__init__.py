# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""BlindSight (arXiv 2507.09071): heads that never look at other images don't have to.

`segments` says which tokens are whose image, `templates` what a head of each class may see,
`regrouping` computes that without a mask.
"""
