# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a user designs: quantisers and pruners, small classes with a registered name.

docs/COMPRESSION.md has one in full.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from neuron_chunk_ros.compress.grids import Grid
from neuron_chunk_ros.errors import RecipeError

QUANTISERS: dict[str, type] = {}
PRUNERS: dict[str, type] = {}


@dataclass
class Linear:
    """A linear layer to be compressed, or some of its outputs."""

    name: str                 # module path
    weight: np.ndarray        # float32 [inputs, outputs], pruned
    # Mean of x x^T over the calibration's tokens, in blocks down its diagonal: float32
    # [inputs of the block] * 2 each. Empty where nothing is known.
    moments: list[np.ndarray] = field(default_factory=list)
    kept: np.ndarray | None = None  # bool [inputs, outputs]: what a pruner left; None: all
    unpruned: np.ndarray | None = None  # the weight as it was, where something is pruned
    scratch: dict = field(default_factory=dict)  # the same for all parts of linear layers that
    # share an input: what was derived of the moments

    def importance(self) -> np.ndarray:
        """Return each input channel's root mean square, float32 [inputs]; ones if unknown."""
        if not self.moments:
            return np.ones(len(self.weight), np.float32)
        return np.sqrt(np.concatenate([np.diagonal(block) for block in self.moments]))


class Quantiser:
    """Rounds to nearest; `ends` decides how far the grid reaches. For weights and activations."""

    def ends(self, values: np.ndarray, grid: Grid) -> np.ndarray:
        """Return which value each block's smallest integer is to stand for.

        Here the one of largest magnitude: of weights that is exactly on the grid. 0 for a block
        that is all zeros.

        :param values: float32 [blocks, values].
        :return: float32 [blocks].
        """
        at = np.abs(values).argmax(axis=1)
        return values[np.arange(len(values)), at]

    def quantise(self, linear: Linear, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Return integers, int8 [inputs, outputs], and scales, float32 [inputs, groups].

        For algorithms that know more than one block at a time.
        """
        scales = self.scales(linear.weight, grid)
        return grid.round(linear.weight, scales), scales

    def scales(self, weight: np.ndarray, grid: Grid) -> np.ndarray:
        """Return the scales that `ends` makes, float32 [inputs, groups]."""
        ends = np.asarray(self.ends(grid.blocks(weight), grid), np.float32)
        return grid.spread(ends / grid.least, *weight.shape)


class Pruner:
    """Decides which weights stay."""

    # Whether whole input channels go: it then sees all linear layers that share an input at once,
    # and the bundle has no rows of what goes.
    whole = False

    def count(self, inputs: int) -> int:
        """Return of how many input channels rows stay; of pruners that are `whole`."""
        return inputs

    def keep(self, linear: Linear) -> np.ndarray:
        """Return True where a weight stays, bool [inputs, outputs]."""
        raise NotImplementedError


def quantiser(name: str):
    """Register a class as the quantiser of this name in recipes."""
    return _registering(QUANTISERS, Quantiser, name)


def pruner(name: str):
    """Register a class as the pruner of this name in recipes."""
    return _registering(PRUNERS, Pruner, name)


def _registering(known: dict[str, type], base: type, name: str):
    def register(made: type) -> type:
        if not (isinstance(made, type) and issubclass(made, base)):
            raise RecipeError(f'{name}: {made!r} is no {base.__name__}')
        if name in known and known[name].__module__ != made.__module__:
            raise RecipeError(f'{base.__name__.lower()} {name!r} is registered already, by '
                              f'{known[name].__module__}')
        known[name] = made
        return made
    return register


def make(known: dict[str, type], kind: str, name: str, arguments: dict):
    """Return an algorithm by its name. Raises RecipeError for an unknown one, a bad argument."""
    if name not in known:
        raise RecipeError(f'{kind} {name!r} is not one of {", ".join(sorted(known))}; one of your '
                          'own comes with --algorithms FILE.py')
    taken = inspect.signature(known[name]).parameters
    strange = sorted(arguments.keys() - taken.keys())
    if strange:
        raise RecipeError(f'{kind} {name} takes no {strange[0]} '
                          f'(it takes: {", ".join(taken) or "nothing"})')
    try:
        return known[name](**arguments)
    except (TypeError, ValueError) as error:
        raise RecipeError(f'{kind} {name}: {error}') from error


@contextlib.contextmanager
def algorithms_of(paths: list[Path]) -> Iterator[None]:
    """Register the algorithms of a user's own files, for as long as this lasts.

    Raises RecipeError where a file can't be run: it is the user's code, not the model's.
    """
    before = dict(QUANTISERS), dict(PRUNERS)
    try:
        for number, path in enumerate(paths):
            if not Path(path).is_file() or Path(path).suffix != '.py':
                raise RecipeError(f'{path}: no such file of algorithms: give one that ends in .py')
            spec = importlib.util.spec_from_file_location(f'_algorithms_{number}', path)
            module = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except RecipeError:
                raise
            except Exception as error:
                raise RecipeError(f'{path}: {type(error).__name__}: {error}') from error
        yield
    finally:
        for known, kept in zip((QUANTISERS, PRUNERS), before, strict=True):
            known.clear()
            known.update(kept)
