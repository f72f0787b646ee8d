# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Turning a model's modules into ones with two paths: by type, never by name."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from neuron_chunk_ros.compress.integer.attention import NAME, DualAttention
from neuron_chunk_ros.compress.integer.layers import (
    Dual,
    DualActivation,
    DualConvolution,
    DualEmbedding,
    DualNorm,
    DualProduct,
    DualRotary,
)
from neuron_chunk_ros.compress.integer.values import Paths
from neuron_chunk_ros.compress.recipe import Recipe, Rule
from neuron_chunk_ros.errors import RecipeError

_TOLERANCE = 1e-4  # of what folding a norm's weights may change, relative


@dataclass
class IntegerModel:
    """A converted model; call `model` while on one of the paths."""

    model: torch.nn.Module
    paths: Paths
    duals: dict[str, Dual | DualAttention]  # by module path, in the model's order
    folded: list[str]       # norms whose weights are the next linear layers' now
    left: list[str]         # modules with parameters that no path knows

    @contextlib.contextmanager
    def on(self, path: str) -> Iterator[torch.nn.Module]:
        """Take a path: 'float', 'train' or 'integer'."""
        before, self.paths.now = self.paths.now, path
        try:
            yield self.model
        finally:
            self.paths.now = before

    def accumulators(self) -> dict[str, int]:
        """Return the bits that each product's sums may need. Raises RecipeError for too many."""
        return {name: dual.check() for name, dual in self.duals.items()
                if isinstance(dual, DualProduct)}


def convert(model: torch.nn.Module, recipe: Recipe, run: Callable[[torch.nn.Module], object]
            ) -> IntegerModel:
    """Convert a copy of a transformers model.

    :param run: passes the calibration's samples through a model.
    :raises RecipeError: for a recipe without fixed_point, a module that no rule fits, an
        accumulator that may overflow, a scale that its word can't hold.
    """
    if recipe.fixed_point is None:
        raise RecipeError(f'{recipe.name}: integers alone need fixed_point: {{word, fraction}}')
    model = copy.deepcopy(model).float().eval()
    _untie(model)
    folded = _fold(model, run)
    smoothed = _Smoother(model, recipe.smooth, run) if recipe.smooth else None
    if smoothed is not None:
        smoothed.apply()
    paths = Paths(recipe.fixed_point)
    duals: dict[str, Dual | DualAttention] = {}
    for name, module in list(model.named_modules()):
        made = _made(name, module, recipe, paths)
        if made is None:
            continue
        duals[name] = made
        if isinstance(made, Dual):
            parent, _, own = name.rpartition('.')
            setattr(model.get_submodule(parent), own, made)
        else:
            module.dual_attention = made
    _use_attention(model)
    converted = IntegerModel(model, paths, duals, folded, _left(model))
    paths.now = 'observe'
    with torch.no_grad():
        run(model)
    unseen = []
    for name, dual in duals.items():
        try:
            dual.settle()
        except RecipeError:
            if not _was_run(dual):
                unseen.append(name)
                continue
            raise
    for name in unseen:  # a module that the samples never reach stays as it was
        _restore(model, name, duals.pop(name))
    converted.left += unseen
    paths.now = 'train'
    converted.accumulators()
    return converted


def _made(name: str, module: torch.nn.Module, recipe: Recipe, paths: Paths):
    """Return what takes a module's place, by its type and shape; None where nothing does."""
    if isinstance(module, torch.nn.Embedding):
        return DualEmbedding(name, module, paths)
    if isinstance(module, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
        kind = DualProduct if isinstance(module, torch.nn.Linear) else DualConvolution
        return kind(name, module, _rule(name, recipe), paths)
    if isinstance(module, torch.nn.LayerNorm) or hasattr(module, 'variance_epsilon'):
        return DualNorm(name, module, _rule(name, recipe), paths)
    if hasattr(module, 'inv_freq'):
        return DualRotary(name, module, paths)
    if hasattr(module, 'is_causal') and hasattr(module, 'head_dim'):
        return DualAttention(name, _rule(name, recipe), paths)
    if _is_activation(module):
        return DualActivation(name, module, _rule(name, recipe), paths)
    return None


def _rule(name: str, recipe: Recipe) -> Rule:
    rule = recipe.rule(name)
    if rule is None or rule.weights is None or rule.activations is None:
        raise RecipeError(f'{recipe.name}: no rule fits {name}: integers alone need one for every '
                          'module (match: "*" at the end)')
    return rule


def _is_activation(module: torch.nn.Module) -> bool:
    home = type(module).__module__
    return not list(module.parameters()) and not list(module.children()) and (
        home.startswith('torch.nn.modules.activation') or home == 'transformers.activations')


def _was_run(dual: Dual | DualAttention) -> bool:
    return any(one.seen for one in dual.ranges().values())


def _restore(model: torch.nn.Module, name: str, dual) -> None:
    if isinstance(dual, Dual):
        parent, _, own = name.rpartition('.')
        setattr(model.get_submodule(parent), own, dual.module)


def _left(model: torch.nn.Module) -> list[str]:
    """Return modules with parameters of their own that aren't inside any converted one."""
    inside = {id(part) for module in model.modules() if isinstance(module, Dual)
              for part in module.modules()}
    return [name for name, module in model.named_modules()
            if id(module) not in inside and list(module.parameters(recurse=False))]


def _untie(model: torch.nn.Module) -> None:
    """Give tied modules weights of their own: their grids differ."""
    seen: set[int] = set()
    for module in model.modules():
        weight = module._parameters.get('weight')
        if weight is not None and id(weight) in seen:
            module.weight = torch.nn.Parameter(weight.detach().clone())
        seen.add(id(module._parameters.get('weight')))


def _use_attention(model: torch.nn.Module) -> None:
    for module in model.modules():
        config = getattr(module, 'config', None)
        if config is not None and hasattr(config, '_attn_implementation'):
            config._attn_implementation = NAME


def _fold(model: torch.nn.Module, run: Callable) -> list[str]:
    """Move norms' weights into the linear layers that alone take what they hand out."""
    folded = []
    for name, norm, users in _norms(model, run):
        if not users:
            continue
        weight = norm.weight.detach().clone()
        bias = getattr(norm, 'bias', None)
        with torch.no_grad():
            for linear in users:
                if bias is not None:
                    moved = linear.weight @ bias
                    if linear.bias is None:
                        linear.bias = torch.nn.Parameter(moved)
                    else:
                        linear.bias += moved
                linear.weight *= weight
            norm.weight.fill_(1.0)
            if bias is not None:
                bias.zero_()
        folded.append(name)
    return folded


def _norms(model: torch.nn.Module, run: Callable
           ) -> Iterator[tuple[str, torch.nn.Module, list[torch.nn.Linear]]]:
    """Yield each norm with the linear layers that take its output, none if others do, too."""
    norms = {name: module for name, module in model.named_modules()
             if isinstance(module, torch.nn.LayerNorm) or hasattr(module, 'variance_epsilon')}
    users: dict[str, dict[int, torch.nn.Linear]] = {name: {} for name in norms}
    spoilt: set[str] = set()
    hooks = []

    for name, norm in norms.items():
        hooks.append(norm.register_forward_hook(
            lambda module, args, out, name=name: _Followed.of(out, name, users, spoilt)))
    linears = {id(module.weight): module for module in model.modules()
               if isinstance(module, torch.nn.Linear)}
    _Followed.linears = linears
    try:
        with torch.no_grad():
            run(model)
    finally:
        for hook in hooks:
            hook.remove()
    for name, norm in norms.items():
        yield name, norm, [] if name in spoilt else list(users[name].values())


class _Followed(torch.Tensor):
    """A norm's output that notes what is done with it."""

    linears: dict[int, torch.nn.Linear] = {}

    @staticmethod
    def of(out: torch.Tensor, name: str, users: dict, spoilt: set):
        made = out.as_subclass(_Followed)
        made.origin, made.users, made.spoilt = name, users, spoilt
        return made

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            first = next((one for one in args if isinstance(one, _Followed)), None)
            if first is None:
                return function(*args, **kwargs)
            name = getattr(function, '__name__', '')
            if function is torch.nn.functional.linear and id(args[1]) in cls.linears:
                first.users[first.origin][id(args[1])] = cls.linears[id(args[1])]
                return function(args[0].as_subclass(torch.Tensor), *args[1:], **kwargs)
            if name in ('__get__', '__set__', 'size', 'dim'):
                return function(*args, **kwargs)
            if name in ('__getitem__', 'to', 'view', 'reshape', 'contiguous'):
                found = function(args[0].as_subclass(torch.Tensor), *args[1:], **kwargs)
                if found.shape[-1] != args[0].shape[-1]:  # channels of several tokens as one's
                    first.spoilt.add(first.origin)
                    return found
                return _Followed.of(found, first.origin, first.users, first.spoilt)
            first.spoilt.add(first.origin)
            plain = [one.as_subclass(torch.Tensor) if isinstance(one, _Followed) else one
                     for one in args]
            return function(*plain, **kwargs)


class _Smoother:
    """SmoothQuant (Xiao et al. 2023): what varies from channel to channel moves into weights."""

    def __init__(self, model: torch.nn.Module, alpha: float, run: Callable):
        self._alpha, self._run, self._model = alpha, run, model

    def apply(self) -> None:
        """Divide norms' weights and multiply their users', channel by channel."""
        found = [(norm, users) for _, norm, users in _norms(self._model, self._run) if users]
        largest = {id(norm): torch.zeros(len(norm.weight)) for norm, _ in found}
        hooks = [norm.register_forward_hook(
            lambda module, args, out: largest.__setitem__(id(module), torch.maximum(
                largest[id(module)], out.detach().flatten(0, -2).abs().amax(dim=0))))
            for norm, _ in found]
        with torch.no_grad():
            self._run(self._model)
            for hook in hooks:
                hook.remove()
            for norm, users in found:
                weights = torch.stack([user.weight.abs().amax(dim=0) for user in users]).amax(0)
                seen = largest[id(norm)].clamp(min=1e-5)
                factor = (seen ** self._alpha / weights.clamp(min=1e-5) ** (1 - self._alpha)
                          ).clamp(min=1e-3, max=1e3)
                norm.weight /= factor
                if getattr(norm, 'bias', None) is not None:
                    norm.bias /= factor
                for user in users:
                    user.weight *= factor


def parameters_of(model: IntegerModel) -> Iterable[torch.nn.Parameter]:
    """Return what a fine-tune on the training path may move."""
    return model.model.parameters()
