# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: what each means, what it may be, and when it may change."""

import enum
from dataclasses import dataclass


class When(enum.Enum):
    """When a parameter may change."""

    LIVE = 'at any time'
    UNCONFIGURED = 'while the node is unconfigured'
    START = 'when the node is started'


@dataclass(frozen=True)
class Parameter:
    """One parameter: its default (which fixes the type), meaning, range or choices."""

    name: str
    default: object
    description: str
    span: tuple | None = None
    choices: tuple[str, ...] = ()
    when: When = When.UNCONFIGURED


def _live(*args, **kwargs) -> Parameter:
    return Parameter(*args, when=When.LIVE, **kwargs)


_SECONDS = (0.0, 86400.0)
_CELSIUS = (0.0, 200.0)
PARAMETERS = (
    # the model and what is read of it
    Parameter('model', 'tabletop',
              "A bundle's folder ('neuron-chunk convert' makes one), or 'tabletop' for the one "
              'that ships.'),
    _live('policy', 'dense', 'Which rows to read: dense (all), topk, greedy or optimal.',
          choices=('dense', 'topk', 'greedy', 'optimal')),
    _live('sparsity', 0.0, 'Share of the rows not read for visual tokens and decoding.',
          span=(0.0, 0.95)),
    _live('text_sparsity', 0.0, "Share of the rows not read for the prompt's words, which "
          'share one choice: for experiments, it ruins answers.',
          span=(0.0, 0.95)),
    _live('deadline_ms', 0.0, 'Milliseconds that each step of the decoder may take, in place of '
          'both sparsities; 0: none.', span=(0.0, 3.6e6)),
    _live('attention', 'dense', 'How heads attend to images: dense (to everything), or blindsight '
          '(by their classes, where the bundle has some).', choices=('dense', 'blindsight')),
    Parameter('min_importance', 0.9, 'With deadline_ms: share of the importance that a step keeps '
              'even where it misses the deadline for it.', span=(0.0, 1.0)),
    Parameter('on_drive_fault', 'coarse', 'With rows in two parts, what a drive that fails or '
              'hangs does: coarse (answers go on with what is held, marked) or fail.',
              choices=('coarse', 'fail')),
    _live('memory_budget_mb', 0, 'Memory the model may take [MiB]; what it leaves holds rows of '
          'the decoder, and more is refused. 0: no limit, no rows held.', span=(0, 1 << 20)),
    Parameter('max_context', 4096, 'Tokens of images, prompt and answer together; memory is set '
              'aside for them.', span=(256, 1 << 17)),
    Parameter('device', 'cpu', 'Where to compute, as torch names it: cpu, cuda, cuda:1.'),
    Parameter('io_backend', 'auto', 'How to read from flash.',
              choices=('auto', 'io_uring', 'threads')),
    Parameter('direct_io', 'auto', 'Bypass the page cache: auto (where possible), on, off.',
              choices=('auto', 'on', 'off')),
    Parameter('io_threads', 6, "Reading threads of the 'threads' back end.", span=(1, 64)),
    Parameter('io_queue_depth', 128, 'Requests the device is given at a time.', span=(1, 1024)),
    Parameter('read_timeout', 10.0, "Seconds after which a read that doesn't come back ends the "
              'answer, where nothing is held that stands in for it.', span=(0.1, 3600.0)),
    Parameter('max_side_file_mb', 64, 'Size of a tokenizer or vocabulary file in the bundle '
              '[MiB].', span=(1, 1024)),
    Parameter('max_template_seconds', 2.0, "Processor time that the bundle's chat template may "
              'take [s].', span=(0.1, 60.0)),
    # cameras
    Parameter('mode', 'snapshot', 'snapshot: a question looks at the newest frame of each camera. '
              'stream: frames go through the decoder as they come, a question adds its own words.',
              choices=('snapshot', 'stream')),
    Parameter('window', 1, 'Frames of each camera that stay in view in stream mode.',
              span=(1, 4096)),
    Parameter('cameras', [''], 'Names of the cameras; none: a single one on the topic image.'),
    Parameter('name_cameras', True, 'Tell the model the name of the camera ahead of each image.'),
    Parameter('sync_slop', 0.0, 'Look only at frames of all cameras whose stamps lie within this '
              'time of each other [s]; 0: at the newest of each.', span=(0.0, 60.0)),
    Parameter('image_transport', 'raw', 'What the image topics carry: raw (sensor_msgs/Image) or '
              'compressed (sensor_msgs/CompressedImage).', choices=('raw', 'compressed')),
    _live('frame_rate', 0.0, 'Frames of each camera that stream mode takes a second [Hz]; 0: as '
          'many as the decoder can.', span=(0.0, 1000.0)),
    _live('max_frame_age', 0.0, 'Questions are refused where the newest frame is older [s]; 0: '
          'never.', span=_SECONDS),
    # questions
    _live('max_new_tokens', 32, 'Answer tokens allowed where the question names no limit.',
          span=(1, 4096)),
    Parameter('queue_limit', 4, 'Questions that may wait while one is being answered; more are '
              'refused.', span=(1, 64), when=When.START),
    Parameter('max_images', 32, 'Images that a question may bring.', span=(1, 1024)),
    Parameter('max_megapixels', 32.0, "Pixels of a question's images together, and of a camera's "
              'frame [million].', span=(0.001, 1000.0)),
    Parameter('max_prompt_bytes', 16384, 'Bytes that a prompt may have.', span=(1, 1 << 20)),
    Parameter('max_waiting_mb', 256, 'Memory that the images of all waiting questions may take as '
              'they come [MiB]; more are refused.', span=(1, 1 << 16)),
    _live('watch', [''], 'Standing prompts, asked again and again; answers go to ~/answer.'),
    _live('watch_rate', 0.0, 'How often the standing prompts are asked [Hz]; 0: at each frame.',
          span=(0.0, 1000.0)),
    _live('watch_on_change', False, 'Publish the answer to a standing prompt only where it '
          'differs from the one before.'),
    # the node
    Parameter('autostart', True, 'Configure and activate without being told; a node that can not '
              'then ends with exit code 1.', when=When.START),
    Parameter('diagnostics_period', 1.0, 'Time between two diagnostics messages [s].',
              span=(0.1, 60.0), when=When.START),
    # when diagnostics warn; 0 switches a check off
    _live('frame_timeout', 2.0, 'Age at which the newest frame is stale [s].', span=_SECONDS),
    _live('frame_timeout_error', 10.0, 'Age at which the newest frame is an error [s].',
          span=_SECONDS),
    _live('frame_rate_warn', 0.0, 'Warn below this many frames a second [Hz].',
          span=(0.0, 1000.0)),
    _live('latency_warn', 0.0, 'Warn where one answer in twenty takes longer [s].',
          span=_SECONDS),
    _live('latency_error', 0.0, 'Error where one answer in twenty takes longer [s].',
          span=_SECONDS),
    _live('slow_reads_warn', 1.5, 'Warn where reads take this many times as long as the storage '
          'profile says.', span=(0.0, 1000.0)),
    _live('slow_reads_error', 5.0, 'Error where reads take this many times as long as the storage '
          'profile says.', span=(0.0, 1000.0)),
    _live('memory_warn', 0.95, 'Warn from this share of memory_budget_mb on.', span=(0.0, 1.0)),
    _live('temperature_warn', 85.0, 'Warn at this temperature of the processor [Celsius].',
          span=_CELSIUS),
    _live('temperature_error', 95.0, 'Error at this temperature of the processor [Celsius].',
          span=_CELSIUS),
    _live('nvme_temperature_warn', 70.0, 'Warn at this temperature of the drive [Celsius].',
          span=_CELSIUS),
    _live('nvme_temperature_error', 80.0, 'Error at this temperature of the drive [Celsius].',
          span=_CELSIUS),
)


def wanted(parameter: Parameter) -> str:
    """Return what the parameter may be, in words."""
    if parameter.choices:
        return f"one of {', '.join(parameter.choices)}"
    text = {str: 'a string', float: 'a number with a point (such as 0.0)', int: 'an integer',
            bool: 'true or false', list: 'a list of strings'}[type(parameter.default)]
    if parameter.span:
        text += f' from {parameter.span[0]} to {parameter.span[1]}'
    return text
