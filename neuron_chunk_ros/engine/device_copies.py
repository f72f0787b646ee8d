# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From the memory that is read into to a GPU, beside the products: owned by events, never by luck.

Pieces are copied on a stream of their own out of memory that the driver knows (on a Jetson drive
and GPU share it) into one of two staging areas. A piece's memory may be filled again once its copy
is through, a staging area once the product that used it is.
"""

from __future__ import annotations

import torch

_STAGES = 2


class DeviceCopies:
    """Copies rows out of a buffer to one device."""

    def __init__(self, buffer: torch.Tensor, most: int, device: torch.device):
        """Register the buffer with the driver; where it refuses, copies are staged by it.

        :param buffer: uint8, in host memory.
        :param most: bytes of the largest copy.
        """
        self._device, self._buffer = device, buffer
        self._stream = torch.cuda.Stream(device)
        # Whether copies run beside everything else.
        self.pinned = int(torch.cuda.cudart().cudaHostRegister(
            buffer.data_ptr(), buffer.nbytes, 0)) == 0
        self._stages = [torch.empty(most, dtype=torch.uint8, device=device)
                        for _ in range(_STAGES)]
        self._used: list[torch.cuda.Event | None] = [None] * _STAGES
        self._turn = 0

    def copy(self, rows: torch.Tensor) -> torch.Tensor:
        """Start copying rows that lie in the buffer; return them on the device.

        Products that are asked for from now on wait for the copy, the caller does not. Valid
        until `release` and one further copy.
        """
        stage = self._stages[self._turn]
        target = stage[:rows.nbytes].view(rows.dtype).view(rows.shape)
        if self._used[self._turn] is not None:
            self._stream.wait_event(self._used[self._turn])
        with torch.cuda.stream(self._stream):
            target.copy_(rows, non_blocking=True)
        self._copied = self._stream.record_event()
        torch.cuda.current_stream(self._device).wait_event(self._copied)
        return target

    def release(self) -> torch.cuda.Event:
        """Note that the product over what `copy` returned last has been asked for.

        :return: the copy's end; from then on the rows' memory may be filled again.
        """
        self._used[self._turn] = torch.cuda.current_stream(self._device).record_event()
        self._turn = (self._turn + 1) % _STAGES
        return self._copied

    def close(self) -> None:
        """Wait for what is under way and let the driver forget the buffer."""
        torch.cuda.synchronize(self._device)
        if self.pinned:
            torch.cuda.cudart().cudaHostUnregister(self._buffer.data_ptr())
        self._buffer, self._stages = None, []
