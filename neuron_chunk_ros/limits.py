# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How much strangers may ask for: of a question, and of the files that come with a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuron_chunk_ros.errors import RequestError


@dataclass(frozen=True)
class Limits:
    """What is refused beyond, with the numbers, before any work is done for it."""

    images: int = 32                 # of one question
    megapixels: float = 32.0         # of a question's images together
    prompt_bytes: int = 16384        # of one question, UTF-8
    side_file_mb: int = 64           # of one file beside a model's weights [MiB]
    template_seconds: float = 2.0    # of processor time that a chat template may take


DEFAULT_LIMITS = Limits()


def check_length(prompt: str, limits: Limits) -> None:
    """Refuse a prompt that is too long, or no text. Raises RequestError."""
    nbytes = len(prompt)  # at least: most letters take one
    if nbytes <= limits.prompt_bytes:
        try:
            nbytes = len(prompt.encode())
        except UnicodeEncodeError as error:
            raise RequestError('the prompt is no Unicode text: it has half of a pair at letter '
                               f'{error.start + 1}') from error
    if nbytes > limits.prompt_bytes:
        raise RequestError(f'the prompt has {nbytes} bytes, {limits.prompt_bytes} are allowed')


def check_images(sizes: Sequence[tuple[int, int]], limits: Limits) -> None:
    """Refuse too many images, too many pixels in them, or none: (height, width) each.

    Raises RequestError.
    """
    if len(sizes) > limits.images:
        raise RequestError(f'the question has {len(sizes)} images, {limits.images} are allowed')
    empty = next((size for size in sizes if 0 in size), None)
    if empty is not None:
        raise RequestError(f'an image is empty ({empty[1]} x {empty[0]} pixels)')
    pixels = sum(height * width for height, width in sizes)
    if pixels > limits.megapixels * 1e6:
        height, width = max(sizes, key=lambda size: size[0] * size[1])
        raise RequestError(f'images of {pixels / 1e6:.1f} million pixels (the largest has '
                           f'{width} x {height}), {limits.megapixels:g} million are allowed')
