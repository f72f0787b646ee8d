# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From the `model` parameter to a session, and the session while the node is configured."""

from collections.abc import Callable, Sequence
from pathlib import Path

from std_msgs.msg import Header

from neuron_chunk_interfaces.msg import IoTelemetry
from neuron_chunk_ros.errors import BundleError
from neuron_chunk_ros.node.messages import telemetry_message
from neuron_chunk_ros.node.settings import ParameterError, Settings

_FOLLOWED = ('policy', 'sparsity', 'text_sparsity', 'deadline_ms', 'attention')


def bundle_path(model: str) -> Path:
    """Return the bundle the parameter names; 'tabletop' is the one the package ships.

    :raises BundleError: the folder doesn't exist or is a Hugging Face folder.
    """
    if model == 'tabletop':
        from neuron_chunk_ros.tabletop.shipped import bundle_dir
        return bundle_dir()
    path = Path(model).expanduser()
    if not path.is_dir():
        raise BundleError(f"model '{model}' is not a folder: give a bundle made by "
                          "'neuron-chunk convert', or 'tabletop'")
    if not (path / 'bundle.json').exists() and (path / 'config.json').exists():
        raise BundleError(f"model '{model}' is a Hugging Face folder, not a bundle: run "
                          f"'neuron-chunk convert {model} BUNDLE' and give BUNDLE")
    return path


def open_session(settings: Settings, on_progress: Callable[[float], None] | None = None):
    """Load the model as the settings say.

    :param on_progress: takes the share that is loaded, 0 to 1.
    :raises NeuronChunkError: no such bundle, a damaged one, one that doesn't fit the budget, or
        a device that doesn't exist.
    """
    path = bundle_path(settings.model)
    # Imported here: torch takes seconds to load, and a bad path should be told before that.
    from neuron_chunk_ros.engine.session import Session
    try:
        return Session.open(
            path, policy=settings.policy, sparsity=settings.sparsity,
            text_sparsity=settings.text_sparsity, deadline_ms=settings.deadline_ms,
            attention=settings.attention, min_importance=settings.min_importance,
            memory_budget_mb=settings.memory_budget_mb or None,
            cameras=max(1, len(settings.cameras)) if settings.mode == 'stream' else 1,
            max_context=settings.max_context, on_drive_fault=settings.on_drive_fault,
            device=settings.device, backend=settings.io_backend,
            direct=settings.direct_io, threads=settings.io_threads,
            queue_depth=settings.io_queue_depth, limits=settings.limits(),
            read_timeout=settings.read_timeout, on_progress=on_progress)
    except ValueError as error:  # such as a device this machine lacks
        raise ParameterError(str(error)) from None


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
        now = self.settings.now()
        wanted = {name: getattr(now, name) for name in _FOLLOWED}
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
