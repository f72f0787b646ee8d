# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Model families the engine can run, one file each. The only place that knows their names."""

from neuron_chunk_ros.errors import ModelError
from neuron_chunk_ros.model.families.base import Family, GroupPlan, Member
from neuron_chunk_ros.model.families.llava_onevision import LLAVA_ONEVISION
from neuron_chunk_ros.model.families.qwen2_vl import QWEN2_VL

__all__ = ['FAMILIES', 'Family', 'GroupPlan', 'Member', 'family_for']

FAMILIES = {family.name: family for family in (LLAVA_ONEVISION, QWEN2_VL)}


def family_for(config: dict) -> Family:
    """Return the family of a config.json. Raises ModelError for an unknown one, naming it."""
    kind = config.get('model_type')
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ModelError(
            f'model_type {kind!r} is not supported (known: {", ".join(sorted(FAMILIES))})')
    return family
