# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Integers with a scale, on their way through a model's own code between its modules.

transformers' layers add, multiply, cut and join tensors by themselves. `Codes` does the same with
integers; what has no meaning for them is done in float, and noted: nothing is so silently. On the
training path they are the same whole numbers with a gradient; roundings let it through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from neuron_chunk_ros.compress.integer.fixed_point import (
    Multiplier,
    multiplier,
    round_half_up,
    saturate,
)
from neuron_chunk_ros.compress.recipe import FixedPoint

_CONSTANT_BITS = 16  # of a model's own constants that meet integers
_T = torch.Tensor
# What leaves every number as it is, or only moves it.
_MOVES = {getattr(_T, name) for name in (
    'view', 'reshape', 'transpose', 'permute', 'flatten', 'unflatten', 'contiguous', 'expand',
    'repeat', 'unsqueeze', 'squeeze', 'to', 'clone', 'detach', '__getitem__', 'split', 'chunk',
    'index_select', 'double', 'unbind', 'narrow', 'T', 'mT', 'float', 'type_as',
    '__neg__', 'neg', 'repeat_interleave') if hasattr(_T, name)} | {
    torch.reshape, torch.transpose, torch.permute, torch.flatten, torch.split, torch.chunk,
    torch.unbind, torch.squeeze, torch.unsqueeze, torch.index_select, torch.neg,
    torch.repeat_interleave, torch.clone}
_JOINS = {torch.cat, torch.concat, torch.stack}
_ADDS = {_T.add, _T.__add__, torch.add, _T.__radd__, _T.__iadd__, _T.add_}
_PRODUCTS = {_T.mul, _T.__mul__, torch.mul, _T.__rmul__}
# What tells of integers and makes no new ones.
_TELLS = {_T.argmax, torch.argmax, _T.numel, _T.size, _T.dim, _T.is_floating_point, _T.stride,
          _T.data_ptr, _T.element_size, _T.__len__, _T.is_contiguous, _T.get_device, _T.item,
          _T.tolist, _T.__repr__, _T.storage_offset, _T.type}


@dataclass
class Paths:
    """What all modules of one model share."""

    fixed: FixedPoint
    now: str = 'float'  # 'float', 'observe', 'train' or 'integer'
    dtype: torch.dtype = torch.float32  # of the training path; in float64 it is exact
    in_float: Counter = field(default_factory=Counter)  # what was done in float, by name
    # Where given, told of each operation on the integer path: (its name, its kind,
    # {name: int64 tensor}, {name: number}).
    record: Callable[[str, str, dict, dict], None] | None = None
    _unnamed: Counter = field(default_factory=Counter)

    @property
    def training(self) -> bool:
        """Whether numbers carry gradients."""
        return self.now == 'train'

    def codes(self, codes: torch.Tensor, scale: float) -> Codes:
        """Wrap whole numbers."""
        made = codes.to(self.dtype if self.training else torch.float64).as_subclass(Codes)
        made.scale, made.paths = float(scale), self
        return made

    def tell(self, name: str, kind: str, tensors: dict, numbers: dict) -> None:
        """Report an operation, where anybody listens; one between modules gets a number."""
        if self.record is None or self.training:
            return
        if not name:
            name = f'{kind}.{self._unnamed[kind]}'
            self._unnamed[kind] += 1
        self.record(name, kind, tensors, numbers)

    def recording(self, record: Callable | None) -> None:
        """Listen from now on; None: no more."""
        self.record = record
        self._unnamed.clear()

    def rescale(self, codes: torch.Tensor, by: Multiplier, bits: int = 0) -> torch.Tensor:
        """Return plain codes on another grid, clamped to so many bits where any are given."""
        if self.training:
            found = round_half_up(codes * (by.by.to(codes.dtype) / 2.0 ** by.shift))
        else:
            found = by(codes.to(torch.int64))
        return saturate(found, bits) if bits else found


class Codes(torch.Tensor):
    """Whole numbers in a floating type; each stands for itself times `scale`."""

    scale: float
    paths: Paths

    @property
    def plain(self) -> torch.Tensor:
        """The whole numbers: int64, or on the training path floating, with their gradient."""
        found = self.as_subclass(torch.Tensor)
        return found if self.paths.training else found.to(torch.int64)

    @property
    def value(self) -> torch.Tensor:
        """What they stand for."""
        return self.as_subclass(torch.Tensor) * self.scale

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            return _apply(function, args, kwargs)


def _apply(function, args: tuple, kwargs: dict):
    first = next(one for one in _flat([*args, *kwargs.values()]) if isinstance(one, Codes))
    if function in _MOVES:
        if function in (_T.to, _T.float, _T.double, _T.type_as):
            return _wrapped(args[0].as_subclass(_T).clone(), first)
        return _wrapped(function(*map(_plain, args), **kwargs), first)
    if function in _JOINS:
        scale = max(one.scale for one in args[0] if isinstance(one, Codes))
        parts = [_at(one, scale, first).as_subclass(_T) for one in args[0]]
        return _wrapped(function(parts, *args[1:], **kwargs), first, scale)
    if function is _T.masked_scatter:
        scale = max(one.scale for one in (args[0], args[2]) if isinstance(one, Codes))
        into, values = (_at(one, scale, first).as_subclass(_T) for one in (args[0], args[2]))
        return _wrapped(into.masked_scatter(args[1], values), first, scale)
    if function in _ADDS:
        scale = max(one.scale for one in args[:2] if isinstance(one, Codes))
        left, right = (_at(one, scale, first).as_subclass(_T) for one in args[:2])
        first.paths.tell('', 'add', {'left': left, 'right': right, 'output': left + right},
                         {'scale': scale})
        return _wrapped(left + right, first, scale)
    if function in _PRODUCTS and all(isinstance(one, torch.Tensor) for one in args[:2]):
        left, right = (one if isinstance(one, Codes) else _constant(one, first)
                       for one in args[:2])
        found = left.as_subclass(_T) * right.as_subclass(_T)
        first.paths.tell('', 'multiply', {
            'left': left.as_subclass(_T), 'right': right.as_subclass(_T), 'output': found},
            {'left_scale': left.scale, 'right_scale': right.scale})
        return _wrapped(found, first, left.scale * right.scale)
    if function is torch.nn.functional.interpolate and _halves(args, kwargs):
        pooled = torch.nn.functional.avg_pool2d(args[0].as_subclass(_T), 2, divisor_override=1)
        return _wrapped(pooled, first, first.scale / 4)
    if function in _TELLS or getattr(function, '__name__', '') in ('__get__', '__set__'):
        return function(*map(_plain, args), **kwargs)
    first.paths.in_float[getattr(function, '__name__', str(function))] += 1
    return function(*map(_real, args), **{key: _real(value) for key, value in kwargs.items()})


def _flat(values):
    for one in values:
        if isinstance(one, (list, tuple)):
            yield from one
        else:
            yield one


def _plain(value):
    return value.as_subclass(torch.Tensor) if isinstance(value, Codes) else value


def _real(value):
    if isinstance(value, Codes):
        return value.as_subclass(torch.Tensor) * value.scale
    if isinstance(value, (list, tuple)):
        return type(value)(map(_real, value))
    return value


def _wrapped(found, like: Codes, scale: float | None = None):
    if isinstance(found, (list, tuple)):
        return type(found)(_wrapped(one, like, scale) for one in found)
    if not isinstance(found, torch.Tensor):
        return found
    made = found.as_subclass(Codes)
    made.scale, made.paths = scale or like.scale, like.paths
    return made


def _at(value: torch.Tensor, scale: float, like: Codes) -> Codes:
    """Return a value at a scale that is no finer than its own."""
    if not isinstance(value, Codes):
        # One of the model's own constants, rounded once and for all.
        return _wrapped(round_half_up(value.as_subclass(torch.Tensor).to(like.dtype) / scale),
                        like, scale)
    if value.scale == scale:
        return value
    by = multiplier(value.scale / scale, like.paths.fixed, 'addition')
    found = like.paths.rescale(value.plain, by)
    like.paths.tell('', 'rescale', {'input': value.plain, 'multiplier': by.by, 'output': found},
                    {'shift': by.shift, 'bits': 0, 'input_scale': value.scale, 'scale': scale})
    return like.paths.codes(found, scale)


def _constant(value: torch.Tensor, like: Codes) -> Codes:
    value = value.as_subclass(torch.Tensor).to(like.dtype)
    largest = float(value.abs().max()) or 1.0
    scale = largest / ((1 << (_CONSTANT_BITS - 1)) - 1)
    return _wrapped(round_half_up(value / scale), like, scale)


def _halves(args, kwargs) -> bool:
    """Whether an interpolation takes the mean of each 2 x 2."""
    size = kwargs.get('size') or (args[1] if len(args) > 1 else None)
    return (isinstance(args[0], Codes) and args[0].dim() == 4 and size is not None
            and kwargs.get('mode') == 'bilinear' and not kwargs.get('antialias')
            and not kwargs.get('align_corners')
            and [2 * int(n) for n in size] == list(args[0].shape[2:]))
