# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes on flash: the bundle format, its writer and its checks, the reader, the storage profile.

numpy only. No policy lives here: this room is told which extents to read. The names below are
imported on first use, so that inspecting a bundle needs no native module.
"""

from importlib import import_module

__all__ = ['Bundle', 'BundleWriter', 'Group', 'GroupPlan', 'Member', 'Profile', 'Reader']

_HOMES = {'Bundle': 'bundle', 'BundleWriter': 'writer', 'Group': 'layout', 'GroupPlan': 'layout',
          'Member': 'layout', 'Profile': 'profile', 'Reader': 'reader'}


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f'{__name__}.{_HOMES[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
