# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Modules with a training path and an integer path, in the place of transformers' and torch's own.

Symmetric grids throughout: a code times a scale, zero points are zero. Inputs of products have the
recipe's bits, what products hand on has 16, sums have 32.
"""

from __future__ import annotations

import numpy as np
import torch

from neuron_chunk_ros.compress.algorithms import Linear, Quantiser
from neuron_chunk_ros.compress.grids import Grid
from neuron_chunk_ros.compress.integer.fixed_point import (
    ACCUMULATOR_BITS,
    Multiplier,
    accumulator_bits,
    multiplier,
    round_half_up,
    saturate,
    whole_sqrt,
)
from neuron_chunk_ros.compress.integer.values import Codes, Paths
from neuron_chunk_ros.compress.recipe import Rule
from neuron_chunk_ros.errors import RecipeError

WIDE = 16          # bits of what products hand on
TABLE_BITS = 12    # of a table's index
_SEEN = 1 << 17    # values that a range is learnt from
_NORM_BITS = 20    # of a norm's centred inputs


class Range:
    """Learns a grid from what it sees, then quantises to it."""

    def __init__(self, bits: int, quantiser: Quantiser):
        self.bits, self.scale = bits, 0.0
        self._quantiser = quantiser
        self._seen: list[torch.Tensor] = []
        self._largest = 0.0

    def observe(self, values: torch.Tensor) -> None:
        """Look at values."""
        flat = values.detach().flatten().float()
        self._largest = max(self._largest, float(flat.abs().max()) if len(flat) else 0.0)
        step = max(1, 8 * len(flat) // _SEEN)
        self._seen.append(flat[::step].clone())

    @property
    def seen(self) -> bool:
        """Whether anything but zeros ever came by."""
        return self._largest > 0

    def settle(self, what: str) -> None:
        """Choose the scale. Raises RecipeError where nothing was seen, or no number."""
        seen = torch.cat(self._seen) if self._seen else torch.zeros(0)
        self._seen = []
        if not len(seen) or not torch.isfinite(seen).all():
            raise RecipeError(f'{what}: the calibration gave it nothing to learn a range from, or '
                              'values that are not finite')
        # The thinned-out sample may lack the very largest.
        seen = torch.cat([seen, torch.tensor([self._largest])])
        grid = Grid(min(self.bits, 8), 'tensor')
        end = abs(float(self._quantiser.ends(seen.numpy()[None].astype(np.float32), grid)[0]))
        self.scale = (end or 1.0) / ((1 << (self.bits - 1)) - 1)

    def codes(self, value: torch.Tensor, paths: Paths, what: str) -> torch.Tensor:
        """Return the whole numbers of a value on any grid, or of a real one, see Codes.plain."""
        if isinstance(value, Codes):
            if value.scale == self.scale:
                return saturate(value.plain, self.bits)
            by = multiplier(value.scale / self.scale, paths.fixed, what)
            found = paths.rescale(value.plain, by, self.bits)
            paths.tell(what.replace(': ', '.'), 'rescale',
                       {'input': value.plain, 'multiplier': by.by, 'output': found},
                       {'shift': by.shift, 'bits': self.bits, 'input_scale': value.scale,
                        'scale': self.scale})
            return found
        if paths.training:
            return saturate(round_half_up(value.to(paths.dtype) / self.scale), self.bits)
        return saturate((value.double() / self.scale + 0.5).floor().to(torch.int64), self.bits)


class Dual(torch.nn.Module):
    """A module with paths. Ranges of its own named `input` and `output` learn by themselves."""

    def __init__(self, name: str, module: torch.nn.Module, paths: Paths):
        super().__init__()
        self.name, self.module, self.paths = name, module, paths

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Take the path that is taken now."""
        return getattr(self, f'on_{self.paths.now}')(value)

    def ranges(self) -> dict[str, Range]:
        """Return what has a grid, by name."""
        return {what: vars(self)[what] for what in ('input', 'output') if what in vars(self)}

    def on_float(self, value: torch.Tensor) -> torch.Tensor:
        """Return what the module did before it was converted."""
        return self.module(value)

    def on_observe(self, value: torch.Tensor) -> torch.Tensor:
        """Return the same, and look at what goes in and comes out."""
        out = self.module(value)
        for what, one in self.ranges().items():
            one.observe(value if what == 'input' else out)
        return out

    def settle(self) -> None:
        """Turn what was observed into grids. Raises RecipeError."""
        for what, one in self.ranges().items():
            one.settle(f'{self.name}: {what}')


class DualProduct(Dual):
    """A linear layer or a convolution: integer weights, a scale for each output."""

    kind = 'product'

    def __init__(self, name: str, module: torch.nn.Module, rule: Rule, paths: Paths):
        super().__init__(name, module, paths)
        self.rule = rule
        self.input = Range(rule.activations.bits, rule.activations.quantiser)
        self.output = Range(WIDE, rule.activations.quantiser)
        self.weight_scale: torch.Tensor | None = None  # float32 [outputs]
        self._moments, self._tokens = None, 0

    @property
    def weight(self) -> torch.nn.Parameter:
        """The real weights, which training moves."""
        return self.module.weight

    @property
    def bias(self) -> torch.nn.Parameter | None:
        """The real bias."""
        return self.module.bias

    def apply_to(self, value: torch.Tensor, weight: torch.Tensor,
                 bias: torch.Tensor | None) -> torch.Tensor:
        """Return the product."""
        return torch.nn.functional.linear(value, weight, bias)

    def on_observe(self, value: torch.Tensor) -> torch.Tensor:
        """See Dual."""
        out = super().on_observe(value)
        if isinstance(self.module, torch.nn.Linear):
            flat = value.detach().flatten(0, -2).float()
            total = flat.t() @ flat
            self._moments = total if self._moments is None else self._moments + total
            self._tokens += len(flat)
        return out

    def settle(self) -> None:
        """See Dual."""
        super().settle()
        weight = self.weight.detach().float().flatten(1).t().contiguous().numpy()
        moments = [] if self._moments is None else [(self._moments / self._tokens).numpy()]
        linear = Linear(self.name, weight, moments)
        if self.rule.pruner is not None:
            linear.kept = self.rule.pruner.keep(linear)
            linear.unpruned, linear.weight = weight, np.where(linear.kept, weight, 0)
        grid = self.rule.weights.grid
        integers, scales = self.rule.weights.quantiser.quantise(linear, grid)
        if linear.kept is not None:
            integers = np.where(linear.kept, integers, 0)
        each = np.abs(grid.each(scales, weight.shape[1])[0])
        sign = np.sign(grid.each(scales, weight.shape[1]))
        if (np.abs(grid.each(scales, weight.shape[1])) != each).any():
            raise RecipeError(f"{self.name}: integers can be added up with weights' group: column "
                              'or tensor alone')
        self.weight_scale = torch.from_numpy(np.where(each == 0, 1, each)).float()
        self._moments = None
        with torch.no_grad():  # the training path starts from what the quantiser decided
            shaped = torch.from_numpy((integers * sign * each).T.copy()).view(self.weight.shape)
            self.weight.copy_(shaped.to(self.weight.dtype))

    def _weight_codes(self, dtype: torch.dtype) -> torch.Tensor:
        scale = self.weight_scale.view(-1, *[1] * (self.weight.dim() - 1)).to(dtype)
        return saturate(round_half_up(self.weight.to(dtype) / scale), self.rule.weights.grid.bits)

    def _bias_codes(self, dtype: torch.dtype) -> torch.Tensor | None:
        if self.bias is None:
            return None
        return round_half_up(self.bias.to(dtype)
                             / (self.input.scale * self.weight_scale.to(dtype)))

    def integer_weight(self) -> torch.Tensor:
        """Return the integers, int64, shaped as the weights."""
        return self._weight_codes(torch.float64).detach().to(torch.int64)

    def integer_bias(self) -> torch.Tensor | None:
        """Return the bias in units of the sums, int64 [outputs]."""
        bias = self._bias_codes(torch.float64)
        return None if bias is None else bias.detach().to(torch.int64)

    def requantise(self) -> Multiplier:
        """Return each output's multiplier from sums to the output's grid."""
        ratio = self.input.scale * self.weight_scale.double() / self.output.scale
        return multiplier(ratio, self.paths.fixed, self.name)

    def check(self) -> int:
        """Return the bits that sums need. Raises RecipeError where an accumulator overflows."""
        bits = accumulator_bits(self.integer_weight().flatten(1), self.integer_bias(),
                                self.input.bits)
        if bits > ACCUMULATOR_BITS:
            raise RecipeError(
                f'{self.name}: sums of {self.weight[0].numel()} products of {self.input.bits} and '
                f'{self.rule.weights.grid.bits} bits may need {bits} bits, an accumulator has '
                f'{ACCUMULATOR_BITS}: fewer bits of weights or activations')
        return bits

    def on_train(self, value: torch.Tensor) -> Codes:
        """See Dual."""
        codes = self.input.codes(value, self.paths, f'{self.name}: input')
        sums = self.apply_to(codes, self._weight_codes(codes.dtype), self._bias_codes(codes.dtype))
        return self._out(sums)

    def on_integer(self, value: torch.Tensor) -> Codes:
        """See Dual."""
        codes = self.input.codes(value, self.paths, f'{self.name}: input')
        weight, bias = self.integer_weight(), self.integer_bias()
        sums = self.apply_to(codes.double(), weight.double(), None).to(torch.int64)
        if bias is not None:
            sums = sums + bias.view(self._by_output())
        out = self._out(sums)
        if self.paths.record is not None:  # the numbers cost more than the product
            by = self.requantise()
            tensors = {'weight': weight, 'multiplier': by.by, 'input': codes, 'sums': sums,
                       'output': out.plain}
            self.paths.tell(self.name, self.kind,
                            tensors if bias is None else {**tensors, 'bias': bias},
                            {**self.numbers(), 'shift': by.shift})
        return out

    def numbers(self) -> dict:
        """Return what else there is to know of the operation."""
        return {'input_bits': self.input.bits, 'input_scale': self.input.scale,
                'weight_bits': self.rule.weights.grid.bits, 'bits': self.output.bits,
                'scale': self.output.scale, 'accumulator_bits': self.check()}

    def _out(self, sums: torch.Tensor) -> Codes:
        by = self.requantise().view(*self._by_output())
        return self.paths.codes(self.paths.rescale(sums, by, self.output.bits), self.output.scale)

    def _by_output(self) -> tuple[int, ...]:
        """The shape in which one number an output meets sums."""
        return (-1, *[1] * (self.weight.dim() - 2))


class DualConvolution(DualProduct):
    """A convolution, such as a vision tower's patch embedding."""

    kind = 'convolution'

    def numbers(self) -> dict:
        """See DualProduct."""
        module = self.module
        # torch has the last dimension first.
        around = module._reversed_padding_repeated_twice
        pairs = [list(around[at:at + 2]) for at in range(0, len(around), 2)][::-1]
        return {**super().numbers(), 'stride': list(module.stride), 'padding': pairs,
                'dilation': list(module.dilation), 'groups': module.groups}

    def apply_to(self, value: torch.Tensor, weight: torch.Tensor,
                 bias: torch.Tensor | None) -> torch.Tensor:
        """See DualProduct."""
        module, by_dimension = self.module, {
            3: torch.nn.functional.conv1d, 4: torch.nn.functional.conv2d,
            5: torch.nn.functional.conv3d}
        return by_dimension[weight.dim()](value, weight, bias, module.stride, module.padding,
                                          module.dilation, module.groups)


class DualNorm(Dual):
    """LayerNorm or RMSNorm: an integer square root and a division for each token."""

    def __init__(self, name: str, module: torch.nn.Module, rule: Rule, paths: Paths):
        super().__init__(name, module, paths)
        self.centred = isinstance(module, torch.nn.LayerNorm)
        self.eps = module.eps if self.centred else module.variance_epsilon
        self.input = Range(WIDE, rule.activations.quantiser)  # where it comes as a real number
        self.output = Range(rule.activations.bits, rule.activations.quantiser)
        self.largest = 0.0  # of the inputs

    def on_observe(self, value: torch.Tensor) -> torch.Tensor:
        """See Dual."""
        self.largest = max(self.largest, float(value.abs().max()))
        return super().on_observe(value)

    def _codes(self, value: torch.Tensor) -> Codes:
        if isinstance(value, Codes):
            return value
        return self.paths.codes(self.input.codes(value, self.paths, self.name), self.input.scale)

    def _constants(self, scale: float, width: int) -> tuple[int, int, torch.Tensor, int]:
        """Return how far to shift, what the root gets for eps, multipliers and their fraction."""
        # Twice what calibration saw fits; codes are shifted right where that is too long.
        shift = max(0, (int(2 * self.largest / scale) * width).bit_length() - _NORM_BITS)
        unit = scale * (1 << shift) / width   # of a centred code
        floor = max(1, round(self.eps / unit ** 2 * width))
        gain = self.module.weight.double() * (width ** 0.5 * 16 / self.output.scale)
        fixed = self.paths.fixed
        fraction = min(fixed.fraction,
                       fixed.word - 1 - int(gain.detach().abs().max()).bit_length())
        if fraction < 8:
            raise RecipeError(f'{self.name}: gains up to {float(gain.detach().abs().max()):.4g} '
                              f'leave {fraction} bits behind the point in a word of {fixed.word}, '
                              'and need 8: raise the word')
        return shift, floor, gain * 2.0 ** fraction, fraction

    def _shift(self, scaled: torch.Tensor) -> torch.Tensor:
        """Add the bias, clamp."""
        bias = getattr(self.module, 'bias', None)
        if bias is not None:
            codes = round_half_up(bias.to(scaled.dtype if scaled.is_floating_point()
                                          else torch.float64) / self.output.scale)
            scaled = scaled + (codes if self.paths.training else codes.detach().to(torch.int64))
        return saturate(scaled, self.output.bits)

    def on_train(self, value: Codes) -> Codes:
        """See Dual."""
        value = self._codes(value)
        codes, width = value.plain.double(), value.shape[-1]
        shift, floor, gain, fraction = self._constants(value.scale, width)
        whole = codes * width - (codes.sum(-1, keepdim=True) if self.centred else 0)
        centred = saturate(round_half_up(whole / 2.0 ** shift), _NORM_BITS + 1)
        root = _floor(((centred.square().sum(-1, keepdim=True) + floor) * 256).sqrt())
        product = _floor(centred * round_half_up(gain) / 2.0 ** (fraction - 8))
        out = self._shift(_floor((product + root * 128) / (root * 256)))
        return self.paths.codes(out, self.output.scale)

    def on_integer(self, value: Codes) -> Codes:
        """See Dual."""
        value = self._codes(value)
        codes, width = value.plain, value.shape[-1]
        shift, floor, gain, fraction = self._constants(value.scale, width)
        whole = codes * width - (codes.sum(-1, keepdim=True) if self.centred else 0)
        centred = saturate((whole + (1 << shift >> 1)) >> shift, _NORM_BITS + 1)
        # Eight more bits make four more of the root.
        root = whole_sqrt(((centred * centred).sum(-1, keepdim=True) + floor) << 8)
        by = (gain.detach() + 0.5).floor().to(torch.int64)
        product = (centred * by) >> (fraction - 8)
        # Rounded half up.
        out = self._shift(torch.div(product + (root << 7), root << 8, rounding_mode='floor'))
        bias = getattr(self.module, 'bias', None)
        tensors = {'input': codes, 'multiplier': by, 'output': out}
        if bias is not None:
            tensors['bias'] = (bias.detach().double() / self.output.scale + 0.5).floor()
        self.paths.tell(self.name, 'norm', tensors, {
            'centred': self.centred, 'input_shift': shift, 'floor': floor, 'shift': fraction,
            'centred_bits': _NORM_BITS + 1, 'bits': self.output.bits, 'input_scale': value.scale,
            'scale': self.output.scale})
        return self.paths.codes(out, self.output.scale)


def _floor(values: torch.Tensor) -> torch.Tensor:
    """Round down; gradients go straight through."""
    return values + (values.floor() - values).detach()


class DualActivation(Dual):
    """An elementwise function, by a table over its input's grid."""

    def __init__(self, name: str, module: torch.nn.Module, rule: Rule, paths: Paths):
        super().__init__(name, module, paths)
        self.input = Range(TABLE_BITS, rule.activations.quantiser)
        self.output = Range(WIDE, rule.activations.quantiser)

    def table(self) -> torch.Tensor:
        """Return the output's code for each of the input's, from the least on: int64 [4096]."""
        half = 1 << (TABLE_BITS - 1)
        inputs = torch.arange(-half, half, dtype=torch.float64) * self.input.scale
        values = self.module(inputs) / self.output.scale
        return saturate((values + 0.5).floor().to(torch.int64), self.output.bits)

    def on_train(self, value: Codes) -> Codes:
        """See Dual."""
        codes = self.input.codes(value, self.paths, f'{self.name}: input')
        smooth = self.module(codes * self.input.scale) / self.output.scale
        out = self.table()[codes.detach().to(torch.int64) + (1 << (TABLE_BITS - 1))]
        # The table's number, the function's gradient.
        return self.paths.codes(smooth + (out.to(smooth.dtype) - smooth).detach(),
                                self.output.scale)

    def on_integer(self, value: Codes) -> Codes:
        """See Dual."""
        codes = self.input.codes(value, self.paths, f'{self.name}: input')
        table = self.table()
        out = table[codes + (1 << (TABLE_BITS - 1))]
        self.paths.tell(self.name, 'table', {'table': table, 'input': codes, 'output': out}, {
            'input_bits': TABLE_BITS, 'input_scale': self.input.scale, 'bits': self.output.bits,
            'scale': self.output.scale})
        return self.paths.codes(out, self.output.scale)


class DualEmbedding(Dual):
    """A table of vectors on a grid of 16 bits."""

    def __init__(self, name: str, module: torch.nn.Embedding, paths: Paths):
        super().__init__(name, module, paths)
        self.scale = 1.0

    @property
    def weight(self) -> torch.nn.Parameter:
        """The real vectors."""
        return self.module.weight

    def settle(self) -> None:
        """See Dual."""
        largest = float(self.weight.detach().abs().max()) or 1.0
        self.scale = largest / ((1 << (WIDE - 1)) - 1)

    def on_train(self, value: torch.Tensor) -> Codes:
        """See Dual."""
        return self.paths.codes(
            round_half_up(self.module(value).to(self.paths.dtype) / self.scale), self.scale)

    def integer_weight(self) -> torch.Tensor:
        """Return the integers, int64 [vectors, width]."""
        return self._codes(self.weight)

    def _codes(self, vectors: torch.Tensor) -> torch.Tensor:
        return (vectors.detach().double() / self.scale + 0.5).floor().to(torch.int64)

    def on_integer(self, value: torch.Tensor) -> Codes:
        """See Dual."""
        found = self._codes(self.module(value))
        if self.paths.record is not None:
            self.paths.tell(self.name, 'embedding', {
                'weight': self.integer_weight(), 'input': value, 'output': found},
                {'bits': WIDE, 'scale': self.scale})
        return self.paths.codes(found, self.scale)


class DualRotary(Dual):
    """Cosines and sines of rotary positions, as integers with 14 bits behind the point."""

    BITS = 14

    def __init__(self, name: str, module: torch.nn.Module, paths: Paths):
        super().__init__(name, module, paths)

    def forward(self, value: torch.Tensor, *args, **kwargs):
        """Return (cosines, sines) as the module does, on the path that is taken now."""
        if self.paths.now in ('float', 'observe'):
            return self.module(value, *args, **kwargs)
        if isinstance(value, Codes):
            value = torch.zeros(1, dtype=torch.float64, device=value.device)
        found = self.module(value, *args, **kwargs)
        if not isinstance(found, tuple):  # angles, whose cosines the model takes by itself
            return found
        unit = 2.0 ** -self.BITS
        return tuple(self.paths.codes((one.double() / unit + 0.5).floor(), unit) for one in found)


