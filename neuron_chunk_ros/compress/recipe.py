# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A recipe: how a model is to be compressed, read from YAML; every error names line and key."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import yaml

from neuron_chunk_ros.compress.algorithms import PRUNERS, QUANTISERS, Pruner, Quantiser, make
from neuron_chunk_ros.compress.grids import Grid
from neuron_chunk_ros.errors import RecipeError
from neuron_chunk_ros.plain_file import read_text
from neuron_chunk_ros.storage.packed_rows import PACKED_FORMATS, REFINEMENTS, PackedFormat, Split
from neuron_chunk_ros.storage.strict_json import printable

EXPORTS = ('mem', 'header', 'onnx', 'qonnx', 'verilog')
_MAX_BYTES = 64 << 10  # PyYAML takes some ten seconds for a megabyte
_MOST_BRACKETS = 50
_MOST_LETTERS = 300  # of what a message quotes
_SHIPPED = resources.files('neuron_chunk_ros.compress') / 'recipes'


@dataclass(frozen=True)
class Weights:
    """How a linear layer's weights are rounded."""

    grid: Grid  # where rows are in two parts, the base's
    quantiser: Quantiser
    name: str  # the quantiser's
    split: Split | None = None

    @property
    def stored(self) -> PackedFormat | Split:
        """How rows are stored. Raises ValueError where they can't be."""
        return self.split or self.grid.format


@dataclass(frozen=True)
class Activations:
    """How a layer's inputs are rounded, on the integer path."""

    bits: int
    quantiser: Quantiser
    name: str


@dataclass(frozen=True)
class Rule:
    """What happens to the layers whose module path fits a pattern."""

    match: str
    weights: Weights | None
    activations: Activations | None
    pruner: Pruner | None


@dataclass(frozen=True)
class FixedPoint:
    """Multiply-shift in place of scales: by an integer of `word` bits, some behind the point."""

    word: int = 32
    fraction: int = 26


@dataclass(frozen=True)
class Recipe:
    """A checked recipe."""

    name: str
    rules: tuple[Rule, ...]
    smooth: float = 0.0          # SmoothQuant's alpha: 0 for none
    samples: int = 32
    seed: int = 0
    fixed_point: FixedPoint | None = None
    exports: tuple[str, ...] = ()
    memory_bits: int = 32        # of a word of a memory image
    text: str = field(default='', compare=False)

    def rule(self, module: str) -> Rule | None:
        """Return the first rule that fits a module path."""
        return next((rule for rule in self.rules if fnmatch.fnmatchcase(module, rule.match)), None)


def shipped() -> list[str]:
    """Return the names of the recipes that come along."""
    return sorted(entry.name.removesuffix('.yaml') for entry in _SHIPPED.iterdir()
                  if entry.name.endswith('.yaml'))


def load(source: str | Path) -> Recipe:
    """Read a recipe: a file, or the name of one that comes along. Raises RecipeError."""
    path = Path(source)
    if str(source) in shipped() and not path.exists():
        return parse((_SHIPPED / f'{source}.yaml').read_text(), str(source))
    try:
        return parse(read_text(path, _MAX_BYTES), str(path))
    except FileNotFoundError as error:
        raise RecipeError(f'{path}: no such recipe (these come along: '
                          f'{", ".join(shipped())})') from error
    except (OSError, ValueError) as error:
        raise RecipeError(f'{path}: {error}') from error


def parse(text: str, where: str = 'recipe') -> Recipe:
    """Read a recipe's text. Raises RecipeError, '`where`:LINE: KEY: ...'."""
    try:
        node = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = printable(str(error.problem), _MOST_LETTERS)
        raise RecipeError(f'{where}:{line}: {problem}') from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f'{where}: {printable(str(error), _MOST_LETTERS)}') from error
    if node is None:
        raise RecipeError(f'{where}:1: the recipe is empty')
    return _recipe(_Section(where, 'recipe', node), text)


def _recipe(top: _Section, text: str) -> Recipe:
    name = top.text('name')
    rules = tuple(_rule(section) for section in top.sections('layers'))
    calibration = top.section('calibration', {})
    samples, seed = calibration.whole('samples', 1, 1 << 20, 32), calibration.whole(
        'seed', 0, 1 << 62, 0)
    calibration.done()
    fixed = None
    if top.has('fixed_point'):
        section = top.section('fixed_point')
        word = section.whole('word', 8, 32, 32)
        fixed = FixedPoint(word, section.whole('fraction', 0, word - 1, min(26, word - 1)))
        section.done()
    exports = top.texts('exports', EXPORTS)
    memory_bits = top.whole('memory_bits', 8, 512, 32)
    if memory_bits % 8:
        raise top.error('memory_bits', f'{memory_bits} is no multiple of 8')
    smooth = top.number('smooth', 0.0, 1.0, 0.0)
    top.done()
    if fixed and any(rule.weights and rule.weights.split for rule in rules):
        raise top.error('fixed_point', 'integers on a chip have no base')
    if fixed and not all(rule.weights and rule.activations for rule in rules):
        raise top.error('fixed_point', 'every rule needs weights and activations then')
    if exports and not fixed:
        raise top.error('exports', 'there are integers to export with fixed_point alone')
    if not fixed and (smooth or any(rule.activations for rule in rules)):
        raise top.error('smooth' if smooth else 'layers', 'only with fixed_point are activations '
                        'rounded, and weights smoothed for it')
    return Recipe(name, rules, smooth, samples, seed, fixed, exports, memory_bits, text)


def _rule(section: _Section) -> Rule:
    match = section.text('match', '*')
    weights = activations = pruner = None
    if section.has('weights'):
        part = section.section('weights')
        bits, base = part.whole('bits', 2, 8), None
        if part.has('base'):
            base = part.whole('base', 2, 4)
        shared = part.value('group', 16 if base else 32)
        quantiser, name = part.algorithm('quantiser', QUANTISERS, 'minmax' if base else 'mse')
        try:
            grid = Grid(base or bits, shared)
            split = base and _split(bits, base, grid)
            weights = Weights(grid, quantiser, name, split or None)
        except ValueError as error:
            raise part.error('base' if base else 'group', str(error)) from error
        part.done()
    if section.has('activations'):
        part = section.section('activations')
        quantiser, name = part.algorithm('quantiser', QUANTISERS, 'minmax')
        activations = Activations(part.whole('bits', 2, 16, 8), quantiser, name)
        part.done()
    if section.has('pruner'):
        pruner, _ = section.algorithm('pruner', PRUNERS, '')
    section.done()
    return Rule(match, weights, activations, pruner)


def _split(bits: int, base: int, grid: Grid) -> Split:
    """Return rows in two parts. Raises ValueError for what there isn't."""
    made = next((made for made in PACKED_FORMATS.values()
                 if (made.bits, made.group) == (base, grid.shared)), None)
    refinement = REFINEMENTS.get(f'plus{bits - base}')
    if made is None or refinement is None:
        raise ValueError(f'{bits} bits with a base of {base}, group {grid.shared}: want 2 to 6 '
                         'bits beside the base, and a group of 16, or of 32 for 3 bits and more')
    return Split(made, refinement)


class _Loader(yaml.SafeLoader):
    """PyYAML's, which takes the square of how deep brackets are nested, to a depth."""

    def fetch_flow_collection_start(self, kind):
        if self.flow_level == _MOST_BRACKETS:
            raise yaml.scanner.ScannerError(None, None, 'brackets are nested too deeply',
                                            self.get_mark())
        super().fetch_flow_collection_start(kind)


class _Section:
    """A mapping of the recipe: keys are taken one by one, what is left at the end is unknown."""

    def __init__(self, where: str, label: str, node: yaml.Node):
        self._where, self._label, self._node = where, label, node
        if not isinstance(node, yaml.MappingNode):
            raise self._fault(node, label, 'want keys and values')
        self._nodes: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in self._nodes:
                raise self._fault(key, label, f'key {getattr(key, "value", "?")!r} is no text '
                                  'or appears twice')
            self._nodes[key.value] = key, value
        self._taken: set[str] = set()

    def has(self, key: str) -> bool:
        return key in self._nodes

    def value(self, key: str, default=None):
        """Return a scalar of whatever type YAML gives it."""
        found = self._scalar(key)
        return default if found is None else found

    def text(self, key: str, default: str | None = None) -> str:
        found = self.value(key, default)
        if not isinstance(found, str) or not found:
            raise self.error(key, f'want a text, not {found!r}')
        return found

    def whole(self, key: str, least: int, most: int, default: int | None = None) -> int:
        found = self.value(key, default)
        if type(found) is not int or not least <= found <= most:
            raise self.error(key, f'want a whole number from {least} to {most}, not {found!r}')
        return found

    def number(self, key: str, least: float, most: float, default: float) -> float:
        found = self.value(key, default)
        if type(found) not in (int, float) or not least <= found <= most:
            raise self.error(key, f'want a number from {least} to {most}, not {found!r}')
        return float(found)

    def texts(self, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
        """Return a list of texts out of those known."""
        if not self.has(key):
            return ()
        found = []
        for item in self._list(key):
            text = _scalar(item)
            if text not in known:
                raise self._fault(item, key, f'{text!r} is not one of {", ".join(known)}')
            found.append(text)
        return tuple(dict.fromkeys(found))

    def section(self, key: str, default: dict | None = None) -> _Section:
        if not self.has(key):
            if default is None:
                raise self.error(key, 'is missing')
            return _Section(self._where, key, yaml.compose('{}', yaml.SafeLoader))
        self._taken.add(key)
        return _Section(self._where, key, self._nodes[key][1])

    def sections(self, key: str) -> list[_Section]:
        if not self.has(key):
            raise self.error(key, 'is missing')
        found = [_Section(self._where, f'{key}[{number}]', item)
                 for number, item in enumerate(self._list(key))]
        if not found:
            raise self.error(key, 'want at least one')
        return found

    def algorithm(self, key: str, known: dict[str, type], default: str):
        """Return (made, name) of `NAME` or `{name: NAME, its arguments}`."""
        node = self._nodes[key][1] if self.has(key) else None
        if isinstance(node, yaml.MappingNode):
            part = self.section(key)
            name = part.text('name')
            arguments = {one: part.value(one) for one in part._nodes if one != 'name'}
        else:
            name, arguments = self.text(key, default), {}
        try:
            return make(known, key, name, arguments), name
        except RecipeError as error:
            raise self.error(key, str(error)) from error

    def done(self) -> None:
        """Refuse what nobody took."""
        left = [key for key in self._nodes if key not in self._taken]
        if left:
            raise self.error(left[0], 'is not known here')

    def error(self, key: str, message: str) -> RecipeError:
        node = self._nodes[key][0] if key in self._nodes else self._node
        return self._fault(node, key, message)

    def _fault(self, node: yaml.Node, key: str, message: str) -> RecipeError:
        said = printable(f'{key}: {message}', _MOST_LETTERS)
        return RecipeError(f'{self._where}:{node.start_mark.line + 1}: {said}')

    def _scalar(self, key: str):
        self._taken.add(key)
        if key not in self._nodes:
            return None
        node = self._nodes[key][1]
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(key, 'want one value')
        return _scalar(node)

    def _list(self, key: str) -> list[yaml.Node]:
        self._taken.add(key)
        node = self._nodes[key][1]
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(key, 'want a list')
        return node.value


def _scalar(node: yaml.Node):
    if not isinstance(node, yaml.ScalarNode):
        return None
    try:
        return yaml.SafeLoader('').construct_object(node)
    except Exception:  # PyYAML has no checks of its own for what a tag says a text is
        return node.value
