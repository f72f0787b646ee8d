# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The engine's results as ROS messages."""

import math

from std_msgs.msg import Header

from neuron_chunk_interfaces.msg import Answer, IoTelemetry, Timing

_COUNTS = ('tokens', 'tokens_drafted', 'tokens_accepted', 'bytes_read', 'bytes_used',
           'bytes_held', 'chunks', 'requests', 'rows_selected', 'rows_held', 'rows_ahead',
           'rows_ahead_wanted', 'rows_total')
_SECONDS = ('read_seconds', 'wait_seconds', 'select_seconds', 'compute_seconds', 'seconds')


def newest(headers: list[Header]) -> Header:
    """Return the header with the latest stamp, the last of equals; an empty one for none."""
    return max(reversed(headers), key=lambda h: (h.stamp.sec, h.stamp.nanosec), default=Header())


def telemetry_message(step, header: Header, model: str, policy: str) -> IoTelemetry:
    """Turn a StepTelemetry into its message."""
    message = IoTelemetry(header=header, model=model, policy=policy, step=step.step)
    for name in _COUNTS:
        setattr(message, name, int(getattr(step, name)))
    for name in _SECONDS:
        setattr(message, name, float(getattr(step, name)))
    message.importance_kept = _share(step.importance_kept)
    message.attention_density = _share(step.attention_density)
    message.contiguity = [int(count) for count in step.contiguity]
    message.estimated_seconds = step.estimated_seconds
    message.backend = step.backend
    message.direct_io = bool(step.direct_io)
    message.deadline_missed = bool(step.deadline_missed)
    message.coarse = bool(step.coarse)
    return message


def answer_message(answer, prompt: str, headers: list[Header], session, queued: float,
                   converting: float) -> Answer:
    """Turn the engine's answer into its message.

    :param headers: of the images looked at, in prompt order.
    :param queued: seconds the question waited for others.
    :param converting: seconds spent on image conversion, counted as preprocessing.
    """
    timing = answer.timing
    header = newest(headers)
    return Answer(
        header=header, prompt=prompt, text=answer.text, model=session.model_name,
        confidence=_share(answer.confidence), finish_reason=answer.finish_reason,
        tokens=int(answer.tokens), images=headers, coarse=bool(answer.io.coarse),
        timing=Timing(
            queue=queued, preprocess=converting + float(timing.preprocess),
            vision=float(timing.vision), prefill=float(timing.prefill),
            decode=float(timing.decode), total=queued + converting + float(timing.total)),
        io=telemetry_message(answer.io, header, session.model_name, session.policy))


def _share(value) -> float:
    value = float(value)
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0
