# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A calibration told in the terms of another layout and row order of the same model."""

from __future__ import annotations

import numpy as np

from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.prepare.calibrate import rounded
from neuron_chunk_ros.storage.bundle import Bundle, Group, GroupPlan
from neuron_chunk_ros.storage.calibration import ARRAYS, KINDS, tensor_name
from neuron_chunk_ros.storage.layout import RowOrder


class CalibrationMapping:
    """Translates a bundle's calibration to other groups of the same linear layers."""

    def __init__(self, bundle: Bundle, plans: list[GroupPlan],
                 homes: dict[str, tuple[Group, int]]):
        """Read the per-neuron arrays.

        :param homes: the bundle's group of each linear layer.
        :raises BundleError: for arrays that hold impossible numbers.
        """
        self._calibration, self._plans, self._homes = bundle.calibration, plans, homes
        self._arrays: dict[str, np.ndarray] = {}
        if bundle.calibration is not None:
            path = bundle.path / bundle.calibration['neurons']['file']
            self._arrays = bundle.neurons()
            for name, array in self._arrays.items():
                if not np.isfinite(array).all() or (array < 0).any():
                    raise BundleError(f'{path}: tensor {name} holds a number below 0 or none')

    def array(self, plan: GroupPlan, kind: str, name: str) -> np.ndarray:
        """Return a group's 'count' or 'importance' [rows] in the model's own order of channels."""
        group = self._homes[plan.members[0].name][0]
        values = self._arrays[tensor_name(group.name, kind, name)]
        if group.order is None:
            return values
        own = np.empty_like(values)
        own[group.order.channels] = values
        return own

    def translated(self, orders: dict[str, RowOrder]) -> tuple[dict, dict[str, np.ndarray]]:
        """Return the calibration of the new groups and its arrays, in the new order."""
        arrays = {}
        for plan in self._plans:
            for kind in KINDS:
                for name in ARRAYS:
                    values = self.array(plan, kind, name)
                    order = orders.get(plan.name)
                    arrays[tensor_name(plan.name, kind, name)] = (
                        values if order is None else values[order.channels])
        groups = {plan.name: {kind: self._table(plan, kind) for kind in KINDS}
                  for plan in self._plans}
        return {**self._calibration, 'groups': groups}, arrays

    def _table(self, plan: GroupPlan, kind: str) -> dict:
        sources = list(dict.fromkeys(self._homes[member.name][0] for member in plan.members))
        tables = [self._calibration['groups'][group.name][kind] for group in sources]
        if len(sources) == 1:
            # of errors that are independent the squares add up to the whole group's
            parts = len(sources[0].members) / len(plan.members)
            return {**tables[0], 'sensitivity': tables[0]['sensitivity'] / parts ** 0.5}
        weights = [group.columns for group in sources]
        mean = np.average([table['sparsity'] for table in tables], axis=0, weights=weights)
        return {'sparsity': [round(float(value), 6) for value in mean],
                'sensitivity': rounded(sum(t['sensitivity'] ** 2 for t in tables) ** 0.5),
                'variation': tables[0]['variation']}
