# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The model while the node is configured: its session, the stream where there is one."""

from collections.abc import Callable, Sequence

from std_msgs.msg import Header

from neuron_chunk_interfaces.msg import IoTelemetry
from neuron_chunk_ros.node.messages import telemetry_message
from neuron_chunk_ros.node.settings import Settings

_FOLLOWED = ('policy', 'sparsity', 'text_sparsity', 'deadline_ms')


class LoadedModel:
    """What answering and streaming share. For the worker's thread alone, but for `check`."""

    def __init__(self, session, settings: Settings, publish: Callable[[IoTelemetry], None],
                 logger):
        """`publish`: takes each step's bill, in the worker's thread."""
        self.session, self.settings = session, settings
        self.stream = None
        if settings.mode == 'stream':
            self.stream = session.stream(settings.window, max(1, len(settings.cameras)))
        self._publish = publish
        self._names = {name: name if self._said(name, logger) else ''
                       for name in ('', *settings.cameras)}
        self._followed = {}
        self.follow_settings()

    def check(self, settings: Settings):
        """Raise MemoryBudgetError where changed settings don't fit the loaded model."""
        self.session.plan.check(settings.memory_budget_mb or None)

    def follow_settings(self):
        """Take over what was changed since the last step."""
        wanted = {name: getattr(self.settings, name) for name in _FOLLOWED}
        if wanted != self._followed:
            self.session.configure(**wanted)
            self._followed = wanted

    def spoken(self, cameras: Sequence[str]) -> list[str]:
        """Return what the model is told about where each image comes from; '' for nothing."""
        return [self._names.get(camera, '') for camera in cameras]

    def step_publisher(self, header: Header) -> Callable:
        """Return what takes a step's bill and publishes it under this header."""
        session = self.session

        def publish(step):
            self._publish(telemetry_message(step, header, session.model_name, session.policy))
        return publish

    def _said(self, camera: str, logger) -> bool:
        if not (camera and self.settings.name_cameras and len(self.settings.cameras) > 1):
            return False
        if not self.session.can_say(camera):
            logger.warning(f"the model's vocabulary has no word for camera '{camera}': it is not "
                           'told which image that is')
            return False
        return True
