# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What requests and frames may take of memory by the node's parameters, beside the model's plan.

A ceiling for the process (a container's, a cgroup's) is what it takes once it is configured, the
KV cache and the activations of memory_budget_mb, and this. Said on /diagnostics.
"""

from neuron_chunk_ros.node.settings import Settings

# Copies of a question's images while they are taken: the middleware's, and that of ROS's own
# message, from which Python's is made. The third is the one that waits.
_COPIES = 3
# Bytes a pixel takes while it becomes RGB and the model's, at most: decoded 18 with WebP or a
# CMYK TIFF, 10 to 14 with others, as measured; or a plane each of luma, chroma, both and RGB 9;
# then RGB 3, Pillow's 4 and the model's in another order 3.
_CONVERTED = 20
# Bytes of a pixel in a message, at most; of a frame that is kept, its picture in RGB as well.
_RAW, _RGB = 4, 3
# Bytes a letter of the prompt takes while it is split into tokens.
_LETTER = 256


def request_bytes(settings: Settings, session) -> int:
    """Return the most that questions and frames take, as large and as many as may come."""
    pixels = settings.max_megapixels * 1e6
    kept = 8 if settings.sync_slop else 1
    frames = max(1, len(settings.cameras)) * pixels * (_RAW * (kept + _COPIES - 1) + _RGB)
    waiting = _COPIES * settings.max_waiting_mb * (1 << 20)
    return int(waiting + frames + pixels * _CONVERTED + _LETTER * settings.max_prompt_bytes
               + session.picture_bytes(settings.max_images))
