# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: what each means, what it may be, and the settings read from them."""

import math
import re
from dataclasses import dataclass, fields

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException
from rclpy.node import Node

from neuron_chunk_ros.errors import NeuronChunkError

# rclpy's errors carry the value they refuse only in their text.
_GIVEN = re.compile(r"to '(.*?)' of type|value \((.*?)\) for")


class ParameterError(NeuronChunkError):
    """A parameter has the wrong type, lies outside its range or isn't one of its choices."""


@dataclass(frozen=True)
class Parameter:
    """One parameter: its default (which fixes the type), meaning, range or choices."""

    name: str
    default: object
    description: str
    span: tuple | None = None
    choices: tuple[str, ...] = ()
    live: bool = False


PARAMETERS = (
    Parameter('model', 'tabletop',
              "A bundle's folder ('neuron-chunk convert' makes one), or 'tabletop' for the one "
              'that ships.'),
    Parameter('policy', 'dense', 'Which rows to read: dense (all), topk, greedy or optimal.',
              choices=('dense', 'topk', 'greedy', 'optimal'), live=True),
    Parameter('sparsity', 0.0, 'Share of the rows left on flash for visual tokens and decoding.',
              span=(0.0, 0.95), live=True),
    Parameter('text_sparsity', 0.0, "Share of the rows left on flash for the prompt's words.",
              span=(0.0, 0.95), live=True),
    Parameter('memory_budget_mb', 0,
              'Memory the model may take [MiB]; more is refused before loading. 0: no limit.',
              span=(0, 1 << 20)),
    Parameter('max_context', 4096, 'Tokens of images, prompt and answer together; memory is set '
              'aside for them.', span=(256, 1 << 17)),
    Parameter('device', 'cpu', 'Where to compute, as torch names it: cpu, cuda, cuda:1.'),
    Parameter('io_backend', 'auto', 'How to read from flash.',
              choices=('auto', 'io_uring', 'threads')),
    Parameter('direct_io', 'auto', 'Bypass the page cache: auto (where possible), on, off.',
              choices=('auto', 'on', 'off')),
    Parameter('io_threads', 6, "Reading threads of the 'threads' back end.", span=(1, 64)),
    Parameter('io_queue_depth', 128, 'Requests the device is given at a time.', span=(1, 1024)),
    Parameter('image_transport', 'raw', 'What the image topic carries: raw (sensor_msgs/Image) or '
              'compressed (sensor_msgs/CompressedImage).', choices=('raw', 'compressed')),
    Parameter('queue_limit', 4, 'Questions that may wait while one is being answered; more are '
              'refused.', span=(1, 64)),
    Parameter('diagnostics_period', 1.0, 'Time between two diagnostics messages [s].',
              span=(0.1, 60.0)),
    Parameter('max_new_tokens', 32, 'Answer tokens allowed where the question names no limit.',
              span=(1, 4096), live=True),
    Parameter('frame_timeout', 2.0, 'Age at which diagnostics call the newest frame stale [s].',
              span=(0.1, 3600.0), live=True),
)


@dataclass
class Settings:
    """The parameters' values; those of live parameters follow changes while the node runs."""

    model: str
    policy: str
    sparsity: float
    text_sparsity: float
    memory_budget_mb: int
    max_context: int
    device: str
    io_backend: str
    direct_io: str
    io_threads: int
    io_queue_depth: int
    image_transport: str
    queue_limit: int
    diagnostics_period: float
    max_new_tokens: int
    frame_timeout: float


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        name=parameter.name, description=parameter.description, read_only=not parameter.live)
    if parameter.choices:
        descriptor.additional_constraints = f"one of: {', '.join(parameter.choices)}"
        # YAML reads a bare on or off as true or false, which is mended after declaring.
        descriptor.dynamic_typing = 'on' in parameter.choices
    if isinstance(parameter.default, float):
        low, high = parameter.span
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif isinstance(parameter.default, int):
        low, high = parameter.span
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return descriptor


def _wanted(parameter: Parameter) -> str:
    kind = {str: 'a string', float: 'a number with a point (such as 0.0)', int: 'an integer'}
    text = kind[type(parameter.default)]
    if parameter.choices:
        text = f"one of {', '.join(parameter.choices)}"
    elif parameter.span:
        text += f' from {parameter.span[0]} to {parameter.span[1]}'
    return text


def declare(node: Node) -> Settings:
    """Declare every parameter and return the values the node was started with.

    :raises ParameterError: a value of the wrong type, outside its range or not a choice.
    """
    values = {}
    for parameter in PARAMETERS:
        try:
            value = node.declare_parameter(
                parameter.name, parameter.default, _descriptor(parameter)).value
        except ParameterException as error:
            given = _GIVEN.search(str(error))
            shown = f' is {given[1] or given[2]},' if given else ''
            raise ParameterError(
                f"parameter '{parameter.name}'{shown} must be {_wanted(parameter)}") from None
        if isinstance(value, bool):
            value = 'on' if value else 'off'
        bad_choice = parameter.choices and value not in parameter.choices
        if bad_choice or value == '' or (isinstance(value, float) and not math.isfinite(value)):
            raise ParameterError(
                f"parameter '{parameter.name}' is {value!r}, must be {_wanted(parameter)}")
        values[parameter.name] = value
    settings = Settings(**{field.name: values[field.name] for field in fields(Settings)})
    live = {parameter.name: parameter for parameter in PARAMETERS if parameter.live}

    def follow(changed):
        # Types, ranges and read-only ones are rclpy's to check; all or none are taken.
        changed = [parameter for parameter in changed if parameter.name in live]
        for parameter in changed:
            choices = live[parameter.name].choices
            if choices and parameter.value not in choices:
                return SetParametersResult(successful=False, reason=(
                    f'{parameter.name} must be {_wanted(live[parameter.name])}'))
        for parameter in changed:
            setattr(settings, parameter.name, parameter.value)
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(follow)
    return settings
