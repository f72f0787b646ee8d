# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Running a vision-language model whose decoder stays on flash.

`Session` is what most users need; it is imported on first use, since it brings torch along.
"""

__all__ = ['Session']


def __getattr__(name: str):
    if name == 'Session':
        from neuron_chunk_ros.model.session import Session
        return Session
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
