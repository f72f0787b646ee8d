# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From read buffers to a GPU, beside the products: owned by events, never by luck.

Pieces are copied on a stream of their own out of memory that the driver knows (on a Jetson drive
and GPU share it) into one of two staging areas. A read buffer may be filled again once its copy is
through, a staging area once the product that used it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_STAGES = 2


class DeviceCopies:
    """Copies rows of a few buffers to one device."""

    def __init__(self, buffers: Sequence[torch.Tensor], device: torch.device):
        """Register the buffers with the driver; where it refuses, copies are staged by it.

        :param buffers: uint8, in host memory, each the whole of a read buffer.
        """
        self._device, self._buffers = device, list(buffers)
        self._stream = torch.cuda.Stream(device)
        driver = torch.cuda.cudart()
        self._registered = [buffer for buffer in self._buffers if int(
            driver.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0)) == 0]
        size = max(buffer.nbytes for buffer in self._buffers)
        self._stages = [torch.empty(size, dtype=torch.uint8, device=device)
                        for _ in range(_STAGES)]
        self._used: list[torch.cuda.Event | None] = [None] * _STAGES
        self._copied: list[torch.cuda.Event | None] = [None] * len(self._buffers)
        self._turn = 0

    @property
    def pinned(self) -> bool:
        """Whether the driver knows all buffers, so that copies run beside everything else."""
        return len(self._registered) == len(self._buffers)

    def copy(self, buffer: int, rows: torch.Tensor) -> torch.Tensor:
        """Start copying rows that lie in a buffer; return them on the device.

        Products that are asked for from now on wait for the copy, the caller does not. Valid
        until `release` and one further copy.
        """
        stage = self._stages[self._turn]
        target = stage[:rows.nbytes].view(rows.dtype).view(rows.shape)
        if self._used[self._turn] is not None:
            self._stream.wait_event(self._used[self._turn])
        with torch.cuda.stream(self._stream):
            target.copy_(rows, non_blocking=True)
        self._copied[buffer] = self._stream.record_event()
        torch.cuda.current_stream(self._device).wait_event(self._copied[buffer])
        return target

    def release(self) -> None:
        """Note that the product over what `copy` returned last has been asked for."""
        self._used[self._turn] = torch.cuda.current_stream(self._device).record_event()
        self._turn = (self._turn + 1) % _STAGES

    def wait_free(self, buffer: int) -> None:
        """Wait until nothing is copied out of a buffer any more."""
        if self._copied[buffer] is not None:
            self._copied[buffer].synchronize()
            self._copied[buffer] = None

    def close(self) -> None:
        """Wait for what is under way and let the driver forget the buffers."""
        torch.cuda.synchronize(self._device)
        for buffer in self._registered:
            torch.cuda.cudart().cudaHostUnregister(buffer.data_ptr())
        self._buffers, self._registered, self._stages = [], [], []
