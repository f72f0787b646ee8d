# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From what a caller gives to what the model takes: checked, and on the model's device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from neuron_chunk_ros.errors import RequestError
from neuron_chunk_ros.families import PromptBuilder, PromptPart
from neuron_chunk_ros.limits import Limits, check_images, check_length


class Inputs:
    """Checks prompts and images and builds a model's inputs from them."""

    def __init__(self, prompts: PromptBuilder, device, dtype: torch.dtype, context: int,
                 limits: Limits):
        """`context`: tokens there are at most, images, prompt and answer together."""
        self.prompts, self._device, self._dtype = prompts, device, dtype
        self._context, self._limits = context, limits

    def question(self, prompt: str, images: Sequence[np.ndarray],
                 names: Sequence[str] | None) -> dict[str, torch.Tensor]:
        """Return a whole question's inputs by their names. Raises RequestError."""
        self._check_prompt(prompt)
        self.check_sizes([_checked(image, f'image {number}').shape[:2]
                          for number, image in enumerate(images, start=1)])
        if names is not None and len(names) != len(images):
            raise RequestError(f'{len(names)} names were given for {len(images)} images: give '
                               'one each')
        inputs = self.prompts.build(prompt, images, names or ())
        return {name: value.to(self._device, self._dtype) if value.is_floating_point()
                else value.to(self._device) for name, value in inputs.items()}

    def whole(self, prompt: str, images: Sequence[np.ndarray],
              names: Sequence[str] | None) -> PromptPart:
        """Return a whole question as one piece. Raises RequestError."""
        inputs = self.question(prompt, images, names)
        ids = inputs.pop('input_ids')
        pixels = {name: value for name, value in inputs.items()
                  if name not in self.prompts.not_pixels}
        if not len(images):
            return PromptPart(ids, pixels)
        visual = torch.isin(ids[0], torch.tensor(self.prompts.visual_ids, device=ids.device))
        return PromptPart(ids, pixels, visual, segments=self.prompts.segments(
            prompt, names or [''] * len(images), visual))

    def image(self, image: np.ndarray) -> tuple[dict[str, torch.Tensor], list[int]]:
        """Return what PromptBuilder.encode makes of a frame. Raises RequestError."""
        self.check_sizes([_checked(image, 'the image').shape[:2]])
        return self.prompts.encode([image])

    def check_sizes(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Refuse images of a question by their sizes (height, width), before any work on them.

        Raises RequestError with the numbers.
        """
        check_images(sizes, self._limits)
        tokens = sum(self.prompts.tokens_of(sizes))
        if tokens > self._context:
            raise RequestError(f'the images take {tokens} tokens, the context holds '
                               f'{self._context}: fewer or smaller images, or a larger '
                               'max_context')

    def prefix(self) -> PromptPart:
        """Return what comes ahead of all frames."""
        return self.prompts.prefix().to(self._device, self._dtype)

    def frame(self, encoded, name: str, number: int, trail: str) -> PromptPart:
        """Return a frame's piece; see PromptBuilder.frame."""
        return self.prompts.frame(encoded, name, number, trail).to(self._device, self._dtype)

    def suffix(self, prompt: str, trail: str) -> PromptPart:
        """Return a question's piece behind frames. Raises RequestError."""
        self._check_prompt(prompt)
        return self.prompts.suffix(prompt, trail).to(self._device, self._dtype)

    def _check_prompt(self, prompt: str) -> None:
        if not prompt.strip():
            raise RequestError('the prompt is empty: ask a question')
        check_length(prompt, self._limits)


def _checked(image: np.ndarray, what: str) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise RequestError(f'{what} is {image.dtype} {list(image.shape)}: uint8 '
                           '[height, width, 3] RGB is needed')
    if 0 in image.shape:
        raise RequestError(f'{what} is empty ({image.shape[1]} x {image.shape[0]} pixels)')
    return image
