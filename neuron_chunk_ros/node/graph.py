# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the ROS graph shows of ordinary mistakes: other types, other QoS, a name given twice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from sensor_msgs.msg import CompressedImage, Image

_TYPES = {Image: 'sensor_msgs/msg/Image', CompressedImage: 'sensor_msgs/msg/CompressedImage'}
_TRANSPORTS = {Image: 'raw', CompressedImage: 'compressed'}
_BY_ITSELF = ('use_sim_time', 'start_type_description_service')  # rclpy's own, whenever it likes
_UNKNOWN = '_NODE_NAME_UNKNOWN_'
_QOS = 'qos_overrides.'


def mismatch(node: Node, topic: str, wanted: type, qos: QoSProfile) -> tuple[int, str]:
    """Return how many publish on a topic, and why none of them is heard; '' where one is.

    :param topic: its full name.
    :param wanted: the message type that is subscribed to.
    :param qos: what it is subscribed with, overrides included.
    """
    publishers = node.get_publishers_info_by_topic(topic)
    reasons = []
    for one in publishers:
        who = f'{one.node_namespace.rstrip("/")}/{one.node_name}'
        if _UNKNOWN in who:  # for a moment: a topic is heard of before its node is
            who = 'somebody'
        reason = _other_type(one.topic_type, wanted) or _other_qos(one.qos_profile, qos)
        if not reason:
            return len(publishers), ''
        reasons.append(f'{who} {reason}')
    return len(publishers), reasons[0] if reasons else ''


def _other_type(told: str, wanted: type) -> str:
    """Return what is wrong with a publisher's type, and the cure."""
    if told == _TYPES[wanted]:
        return ''
    for kind, name in _TYPES.items():
        if told == name:
            return (f'publishes {name} there, not {_TYPES[wanted]}: set image_transport to '
                    f'{_TRANSPORTS[kind]}, or remap the topic')
    return f'publishes {told} there, which is no image: remap the topic'


def _other_qos(theirs: QoSProfile, ours: QoSProfile) -> str:
    fits, reason = qos_check_compatible(theirs, ours)
    if fits != QoSCompatibility.ERROR:
        return ''
    return (f'publishes there with another QoS ({" ".join(reason.split()).rstrip(";.")}): change '
            f'{_QOS}TOPIC.subscription... of this node, or its own')


def namesakes(node: Node) -> int:
    """Return how many other nodes have this one's full name."""
    own = node.get_name(), node.get_namespace()
    return max(0, sum(tuple(one) == own for one in node.get_node_names_and_namespaces()) - 1)


def unknown_parameters(node: Node, known: Iterable[str], subscribed: bool) -> dict[str, str]:
    """Return the parameters that were given at start and mean nothing, each with a line.

    :param known: names that are, or may yet be, declared.
    :param subscribed: whether the topics are, whose QoS may be overridden: only then it is known
        which overrides mean nothing.
    """
    known, found = {*known, *_BY_ITSELF}, {}
    # rclpy tells of them nowhere else.
    for name in getattr(node, '_parameter_overrides', {}):
        if name in known or node.has_parameter(name):
            continue
        if name.startswith(_QOS) and not subscribed:
            continue
        near = difflib.get_close_matches(name, known, 1, 0.6)
        found[name] = f"parameter '{name}' is not known here and does nothing" + (
            f": did you mean '{near[0]}'?" if near else '')
    return found
