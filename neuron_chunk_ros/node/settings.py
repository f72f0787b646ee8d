# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The parameters' values: declared, checked one by one and together, followed as they change."""

import math
import re
from collections.abc import Callable

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException
from rclpy.node import Node

from neuron_chunk_ros.chunking import check_request
from neuron_chunk_ros.errors import NeuronChunkError
from neuron_chunk_ros.limits import Limits
from neuron_chunk_ros.node.parameters import PARAMETERS, Parameter, When, wanted

# rclpy's errors carry the value they refuse only in their text.
_GIVEN = re.compile(r"to '(.*?)' of type|value \((.*?)\) for")
# What becomes a topic and a parameter name.
_CAMERA = re.compile(r'[A-Za-z][A-Za-z0-9_]*')
_MOST_CAMERAS, _MOST_PROMPTS, _LONGEST_PROMPT = 16, 16, 2000
_PAIRS = ('latency', 'slow_reads', 'temperature', 'nvme_temperature')


class ParameterError(NeuronChunkError):
    """A parameter has the wrong type, lies outside its range or doesn't fit the others."""


class Settings:
    """One attribute for each of PARAMETERS; those of live parameters follow their changes.

    All values change in one moment. Who needs several that go together takes `now()` first.
    Of the lists (`cameras`, `watch`), empty strings are left out.
    """

    def __init__(self, **values):
        self._values = values

    def now(self) -> 'Settings':
        """Return this moment's values; they stay."""
        return Settings(**self._values)

    def limits(self) -> Limits:
        """Return what strangers may ask for."""
        return Limits(images=self.max_images, megapixels=self.max_megapixels,
                      prompt_bytes=self.max_prompt_bytes, side_file_mb=self.max_side_file_mb,
                      template_seconds=self.max_template_seconds)

    def replace(self, other: 'Settings'):
        """Take over the other's values, all at once."""
        self._values = other._values

    def __getattr__(self, name: str):
        if name.startswith('_'):  # also while it is being copied
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value):
        if name == '_values':
            object.__setattr__(self, name, value)
        else:
            self._values = {**self._values, name: value}


def check_together(settings: Settings):
    """Check what no parameter shows by itself.

    :raises ParameterError: two of them don't go together, or a name or prompt can't be used.
    """
    try:
        check_request(settings.policy, settings.sparsity, settings.text_sparsity,
                      settings.deadline_ms)
    except ValueError as error:
        raise ParameterError(str(error)) from None
    for name in _PAIRS:
        warn, error = getattr(settings, f'{name}_warn'), getattr(settings, f'{name}_error')
        if warn and error and warn > error:
            raise ParameterError(f'{name}_warn is {warn:g}, above {name}_error ({error:g})')
    cameras = settings.cameras
    for name in cameras:
        if not _CAMERA.fullmatch(name):
            raise ParameterError(f"camera '{name}' can't be a topic name: use letters, digits and "
                                 'underscores, a letter first')
    if len(set(cameras)) < len(cameras) or len(cameras) > _MOST_CAMERAS:
        raise ParameterError(f'cameras are {cameras}: at most {_MOST_CAMERAS}, each once')
    if settings.sync_slop and len(cameras) < 2:
        raise ParameterError('sync_slop needs several cameras: name them in cameras, or leave it '
                             'at 0.0')
    if len(settings.watch) > _MOST_PROMPTS:
        raise ParameterError(f'watch has {len(settings.watch)} prompts: at most {_MOST_PROMPTS}')
    for prompt in settings.watch:
        if len(prompt) > _LONGEST_PROMPT:
            raise ParameterError(f'a prompt in watch has {len(prompt)} characters: at most '
                                 f'{_LONGEST_PROMPT}')


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        name=parameter.name, description=parameter.description,
        read_only=parameter.when is When.START)
    if parameter.choices:
        descriptor.additional_constraints = f"one of: {', '.join(parameter.choices)}"
    if parameter.when is not When.LIVE:
        told = f'may be set {parameter.when.value}'
        descriptor.additional_constraints = '; '.join(
            filter(None, (descriptor.additional_constraints, told)))
    # YAML reads a bare on or off as true or false, and an empty list has no type of its own: both
    # are mended once the value is there.
    descriptor.dynamic_typing = 'on' in parameter.choices or isinstance(parameter.default, list)
    if isinstance(parameter.default, float):
        low, high = parameter.span
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif isinstance(parameter.default, int) and parameter.span:
        low, high = parameter.span
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return descriptor


def _mended(parameter: Parameter, value):
    """Return the value as the settings keep it.

    :raises ParameterError: it isn't what the parameter may be.
    """
    given = value
    if parameter.choices and isinstance(value, bool):
        value = 'on' if value else 'off'
    if isinstance(parameter.default, list):
        value = [value] if isinstance(value, str) else list(value or [])
        bad = any(not isinstance(item, str) for item in value)
        value = [item.strip() for item in value if isinstance(item, str) and item.strip()]
    elif parameter.choices:
        bad = value not in parameter.choices
    else:
        bad = value == '' or (isinstance(value, float) and not math.isfinite(value))
    if bad:
        raise ParameterError(
            f"parameter '{parameter.name}' is {given!r}, must be {wanted(parameter)}")
    return value


class Parameters:
    """Declares every parameter and keeps `settings` at their values."""

    def __init__(self, node: Node):
        """Declare. Raises ParameterError for what can't be.

        A change is taken whole or refused whole, with a reason.
        """
        self.settings = Settings()
        # Checks a changed copy of the settings against the loaded model; raises NeuronChunkError.
        self.check_model: Callable[[Settings], None] = lambda settings: None
        self.configured = False
        self._node = node
        for parameter in PARAMETERS:
            setattr(self.settings, parameter.name, self._declare(parameter))
        check_together(self.settings)
        self._by_name = {parameter.name: parameter for parameter in PARAMETERS}
        node.add_on_set_parameters_callback(self._follow)

    def camera(self, name: str) -> tuple[str, str]:
        """Return the (topic, frame_id) of a camera; '' is the one without a name."""
        if not name:
            return 'image', ''
        topic = self._text(f'{name}.topic', f'{name}/image', f'Image topic of the camera {name}.')
        frame_id = self._text(f'{name}.frame_id', '', 'Put in answers in place of the frame_id '
                              f'that the camera {name} sends; empty: as sent.')
        return topic, frame_id

    @property
    def names(self) -> list[str]:
        """The names of all parameters there may be, those of the cameras among them."""
        return [*(parameter.name for parameter in PARAMETERS), *(
            f'{camera}.{what}' for camera in self.settings.cameras
            for what in ('topic', 'frame_id'))]

    def _text(self, name: str, default: str, description: str) -> str:
        if not self._node.has_parameter(name):
            self._node.declare_parameter(
                name, default, ParameterDescriptor(description=description))
            self._by_name[name] = Parameter(name, default, description)
        return self._node.get_parameter(name).value

    def _declare(self, parameter: Parameter):
        try:
            value = self._node.declare_parameter(
                parameter.name, parameter.default, _descriptor(parameter)).value
        except ParameterException as error:
            given = _GIVEN.search(str(error))
            shown = f' is {given[1] or given[2]},' if given else ''
            raise ParameterError(
                f"parameter '{parameter.name}'{shown} must be {wanted(parameter)}") from None
        return _mended(parameter, value)

    def _follow(self, changed) -> SetParametersResult:
        # Types, ranges and read-only ones are rclpy's to check.
        ours = [(self._by_name[p.name], p.value) for p in changed if p.name in self._by_name]
        copy = self.settings.now()
        try:
            for parameter, value in ours:
                if self.configured and parameter.when is not When.LIVE:
                    raise ParameterError(f"'{parameter.name}' may be set {parameter.when.value}: "
                                         'deactivate and clean up first')
                if hasattr(copy, parameter.name):
                    setattr(copy, parameter.name, _mended(parameter, value))
            check_together(copy)
            self.check_model(copy)
        except NeuronChunkError as error:
            return SetParametersResult(successful=False, reason=' '.join(str(error).split()))
        self.settings.replace(copy)
        return SetParametersResult(successful=True)
