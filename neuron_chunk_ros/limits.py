# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How much strangers may ask for: of a question, and of the files that come with a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What is refused beyond, with the numbers, before any work is done for it."""

    images: int = 32                 # of one question
    megapixels: float = 16.0         # of one image
    prompt_bytes: int = 16384        # of one question, UTF-8
    side_file_mb: int = 64           # of one file beside a model's weights [MiB]
    template_seconds: float = 2.0    # of processor time that a chat template may take


DEFAULT_LIMITS = Limits()
